"""How two sets of features cover each other, by balls B(x) that reach to the k-th nearest neighbour of x in its set.

Precision, recall (Kynkaanniemi et al. 2019, eq. 1-2, k = 3): share of one set in a ball of the other; f1 is their
harmonic mean. Density, coverage (Naeem et al. 2020, eq. 3-4, k = 5): mean number of real balls around a generated
sample over k; share of real balls with a generated sample. From 0 to 1, density also above; higher is better.
"""

from typing import NamedTuple

import numpy as np

from pipeline.metrics.card import MetricValue
from pipeline.metrics.features.nearest_neighbours import neighbour_distances, overlap
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import check_pair


class Manifold(NamedTuple):
    precision: MetricValue
    recall: MetricValue
    f1: MetricValue
    density: MetricValue
    coverage: MetricValue


def manifold(generated: np.ndarray, real: Reference, k: int = 3) -> Manifold:
    """generated: [n, d]. With exchanged arguments, precision and recall are exchanged."""
    check_pair(generated, real.features)
    if not 1 <= k <= real.neighbours.shape[1]:
        raise ValueError(f"k = {k}, but the reference keeps 1 to {real.neighbours.shape[1]} neighbours")
    if k >= len(generated):
        raise ValueError(f"k = {k} with {len(generated)} generated samples: pass at least {k + 1}")
    generated_radii = neighbour_distances(generated, k)[:, k - 1]
    counts = overlap(generated, real.features, generated_radii, real.neighbours[:, k - 1])
    precision, recall = (float((balls > 0).mean()) for balls in (counts.balls_around_left, counts.balls_around_right))
    total = precision + recall
    return Manifold(
        precision=MetricValue(precision),
        recall=MetricValue(recall),
        f1=MetricValue(2 * precision * recall / total if total > 0 else 0.0),
        density=MetricValue(float(counts.balls_around_left.mean()) / k),
        coverage=MetricValue(float((counts.points_in_right > 0).mean())),
    )
