"""Metrics by name on features: one definition for the chain, for `measure` and for the immune system."""

from collections.abc import Callable, Collection
from typing import NamedTuple, TypeAlias

import numpy as np

from pipeline.metrics.card import MetricValue
from pipeline.metrics.features.extractors import NEIGHBOURS, Features
from pipeline.metrics.features.nearest_neighbours import neighbour_distances
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.values.frechet import frechet_distance
from pipeline.metrics.values.inception_score import inception_score
from pipeline.metrics.values.kid import kid, kid_of_subsets
from pipeline.metrics.values.nearest_neighbour import nearest_neighbour_distance
from pipeline.metrics.values.precision_recall import manifold

NEIGHBOURS_OF = {"precision": 3, "recall": 3, "f1": 3, "density": 5, "coverage": 5}  # as their papers have it
SCORE_SPLITS = 10
KID_SUBSET = 1000  # of the papers; fewer samples are warned of
KID_LARGEST = 10_000  # samples compared all with all; beyond, 100 subsets as in the papers

Arrays: TypeAlias = dict[str, np.ndarray]
Keep: TypeAlias = Callable[[str, Callable[[], Arrays]], Arrays]  # arrays by name, made if they are not at hand


def at_once(name: str, make: Callable[[], Arrays]) -> Arrays:
    """Nothing is kept."""
    return make()


class Real:
    """The real side, with all that every comparison against it needs."""

    def __init__(self, given: Features, metrics: Collection[str], keep: Keep = at_once) -> None:
        self.given = given
        count = min(NEIGHBOURS, len(given) - 1) if {*NEIGHBOURS_OF} & {*metrics} else 0
        self.reference = _reference(given.features, count, "features", keep)
        spatial = given.spatial if "sfid" in metrics else None
        self.spatial = None if spatial is None else _reference(spatial, 0, "spatial", keep)


class Known(NamedTuple):
    """The real side where all of it is at hand already."""

    reference: Reference
    spatial: Reference | None = None


def compute(names: Collection[str], generated: Features, real: Real | Known) -> dict[str, MetricValue]:
    """Values of the named metrics."""
    features, reference = generated.features, real.reference
    found: dict[str, MetricValue] = {}
    if {"fd", "fid"} & {*names}:
        distance = frechet_distance(FeatureStats.of(features), reference.stats, reference.factor)
        found |= {"fd": distance, "fid": distance}
    if real.spatial is not None and generated.spatial is not None:
        spatial = real.spatial
        found["sfid"] = frechet_distance(FeatureStats.of(generated.spatial), spatial.stats, spatial.factor)
    if "kid" in names:
        found["kid"] = _kid(features, reference.features)
    if "is" in names and generated.logits is not None:
        found["is"] = inception_score(generated.logits, SCORE_SPLITS)
    if "accuracy" in names and generated.logits is not None and generated.labels is not None:
        found["accuracy"] = MetricValue(float((generated.logits.argmax(axis=1) == generated.labels).mean()))
    for k in {NEIGHBOURS_OF[name] for name in names if name in NEIGHBOURS_OF}:
        cover = manifold(features, reference, k)._asdict()
        found |= {name: value for name, value in cover.items() if NEIGHBOURS_OF[name] == k}
    if "nn_distance" in names:
        found["nn_distance"] = nearest_neighbour_distance(features, reference.features)
    return {name: found[name] for name in names}


def _kid(generated: np.ndarray, real: np.ndarray) -> MetricValue:
    smaller, larger = sorted((len(generated), len(real)))
    if larger > KID_LARGEST and smaller >= KID_SUBSET:
        return kid_of_subsets(generated, real, subset_size=KID_SUBSET)
    found = kid(generated, real)
    few = f"{smaller} samples, fewer than the {KID_SUBSET} of the usual subset"
    return found._replace(warnings=(few,)) if smaller < KID_SUBSET else found


def _reference(features: np.ndarray, neighbours: int, name: str, keep: Keep) -> Reference:
    def statistics() -> Arrays:
        stats = FeatureStats.of(features)
        return {"mean": stats.mean, "scatter": stats.scatter, "factor": stats.factor()}

    found = keep(f"statistics of {name}", statistics)
    stats = FeatureStats(len(features), found["mean"], found["scatter"])
    if not neighbours:
        return Reference(features, stats, found["factor"], np.empty((len(features), 0)))
    radii = keep(f"radii of {name}", lambda: {"neighbours": neighbour_distances(features, neighbours)})
    return Reference(features, stats, found["factor"], radii["neighbours"])
