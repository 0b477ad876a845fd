"""How two clouds of features cover each other, by balls that reach to each point's k-th nearest neighbour.

Precision and recall: Kynkaanniemi et al. 2019, eq. 1-2, k = 3. Density and coverage: Naeem et al. 2020, k = 5.
All from 0 to 1, density alone may exceed 1; higher is better.
"""

from typing import NamedTuple, Protocol

import numpy as np

from pipeline.metrics.card import MetricValue
from pipeline.metrics.features.nearest_neighbours import neighbour_distances, overlap
from pipeline.metrics.features.statistics import check_pair


class RealFeatures(Protocol):
    """A `Reference`, or anything else with these arrays."""

    @property
    def features(self) -> np.ndarray:
        """[m, d]"""
        ...

    @property
    def neighbours(self) -> np.ndarray:
        """[m, K] ascending squared distances to the nearest other ones."""
        ...


class Manifold(NamedTuple):
    precision: MetricValue  # share of generated samples inside a real ball
    recall: MetricValue  # share of real samples inside a generated ball
    f1: MetricValue
    density: MetricValue  # mean number of real balls around a generated sample, over k
    coverage: MetricValue  # share of real balls that hold a generated sample


def manifold(generated: np.ndarray, real: RealFeatures, k: int = 3) -> Manifold:
    """generated: [n, d]. Generated first, real second: precision and recall change places otherwise."""
    check_pair(generated, real.features)
    if not 1 <= k <= real.neighbours.shape[1]:
        raise ValueError(f"k = {k}, but the reference keeps 1 to {real.neighbours.shape[1]} neighbours")
    if k >= len(generated):
        raise ValueError(f"k = {k} with {len(generated)} generated samples: pass at least {k + 1}")
    generated_radii = neighbour_distances(generated, k)[:, k - 1]
    counts = overlap(generated, real.features, generated_radii, real.neighbours[:, k - 1])
    precision, recall = (float((balls > 0).mean()) for balls in (counts.balls_around_left, counts.balls_around_right))
    return Manifold(
        precision=MetricValue(precision),
        recall=MetricValue(recall),
        f1=MetricValue(f1(precision, recall)),
        density=MetricValue(float(counts.balls_around_left.mean()) / k),
        coverage=MetricValue(float((counts.points_in_right > 0).mean())),
    )


def f1(precision: float, recall: float) -> float:
    """Harmonic mean; 0 where both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
