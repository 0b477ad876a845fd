"""Metrics by name on features, for the stages, for `measure` and for the sensitivity check."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from pipeline.metrics.card import KID_SUBSET, NEIGHBOURS_OF, SCORE_SPLITS, MetricValue, kid_has_subsets
from pipeline.metrics.features.extractors import NEIGHBOURS, Features
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.values.frechet import frechet_distance
from pipeline.metrics.values.inception_score import inception_score
from pipeline.metrics.values.kid import kid, kid_of_subsets
from pipeline.metrics.values.nearest_neighbour import nearest_neighbour_distance
from pipeline.metrics.values.precision_recall import manifold


class Real(NamedTuple):
    """The real side of a comparison."""

    reference: Reference
    spatial: Reference | None = None  # for sFID

    @classmethod
    def of(cls, real: Features, metrics: Collection[str]) -> "Real":
        """Only what the metrics need."""
        has_neighbours = {*NEIGHBOURS_OF} & {*metrics}
        spatial = real.spatial if "sfid" in metrics else None
        reference = Reference.of(real.features, neighbours=NEIGHBOURS if has_neighbours else 0)
        return cls(reference, None if spatial is None else Reference.of(spatial, neighbours=0))


def compute(names: Collection[str], generated: Features, real: Real) -> dict[str, MetricValue]:
    """Values of the named metrics."""
    features, reference = generated.features, real.reference
    values: dict[str, MetricValue] = {}
    if {"fd", "fid"} & {*names}:
        distance = frechet_distance(FeatureStats.of(features), reference.stats, reference.factor)
        values |= {"fd": distance, "fid": distance}
    if "sfid" in names and real.spatial is not None and generated.spatial is not None:
        spatial = real.spatial
        values["sfid"] = frechet_distance(FeatureStats.of(generated.spatial), spatial.stats, spatial.factor)
    if "kid" in names:
        values["kid"] = _kid(features, reference.features)
    if "is" in names and generated.logits is not None:
        values["is"] = inception_score(generated.logits, SCORE_SPLITS)
    if "accuracy" in names and generated.logits is not None and generated.labels is not None:
        values["accuracy"] = MetricValue(float((generated.logits.argmax(axis=1) == generated.labels).mean()))
    for k in {NEIGHBOURS_OF[name] for name in names if name in NEIGHBOURS_OF}:
        of_k = manifold(features, reference, k)._asdict()
        values |= {name: value for name, value in of_k.items() if NEIGHBOURS_OF[name] == k}
    if "nn_distance" in names:
        values["nn_distance"] = nearest_neighbour_distance(features, reference.features)
    return {name: values[name] for name in names}


def _kid(generated: np.ndarray, real: np.ndarray) -> MetricValue:
    if kid_has_subsets(len(generated), len(real)):
        return kid_of_subsets(generated, real, subset_size=KID_SUBSET)
    value, smaller = kid(generated, real), min(len(generated), len(real))
    few = f"{smaller} samples, fewer than the {KID_SUBSET} of the usual subset"
    return value._replace(warnings=(few,)) if smaller < KID_SUBSET else value
