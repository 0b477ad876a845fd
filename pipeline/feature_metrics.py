"""Metrics by name on features: one definition for the chain, for `measure` and for the immune system."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from pipeline.feature_files import Features
from pipeline.features import FeatureStats, Reference
from pipeline.metrics import (
    Measured,
    frechet_distance,
    inception_score,
    kid,
    kid_of_subsets,
    manifold,
    nearest_neighbour_distance,
)

NEIGHBOURS_OF = {"precision": 3, "recall": 3, "f1": 3, "density": 5, "coverage": 5}  # as their papers have it
SCORE_SPLITS = 10
KID_SUBSET = 1000  # of the papers; fewer samples are warned of
KID_LARGEST = 10_000  # samples compared all with all; beyond, 100 subsets as in the papers


class Real:
    """The real side, with all that every comparison against it needs."""

    def __init__(self, given: Features, metrics: Collection[str]) -> None:
        neighbours = {*NEIGHBOURS_OF} & {*metrics}
        self.given = given
        self.reference = Reference.of(given.features) if neighbours else _without_neighbours(given.features)
        self.spatial = _without_neighbours(given.spatial) if "sfid" in metrics and given.spatial is not None else None


class Known(NamedTuple):
    """The real side where all of it is at hand already."""

    reference: Reference
    spatial: Reference | None = None


def compute(names: Collection[str], generated: Features, real: Real | Known) -> dict[str, Measured]:
    """Values of the named metrics."""
    features, reference = generated.features, real.reference
    found: dict[str, Measured] = {}
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
    for k in {NEIGHBOURS_OF[name] for name in names if name in NEIGHBOURS_OF}:
        cover = manifold(features, reference, k)._asdict()
        found |= {name: value for name, value in cover.items() if NEIGHBOURS_OF[name] == k}
    if "nn_distance" in names:
        found["nn_distance"] = nearest_neighbour_distance(features, reference.features)
    return {name: found[name] for name in names}


def _kid(generated: np.ndarray, real: np.ndarray) -> Measured:
    smaller, larger = sorted((len(generated), len(real)))
    if larger > KID_LARGEST and smaller >= KID_SUBSET:
        return kid_of_subsets(generated, real, subset_size=KID_SUBSET)
    found = kid(generated, real)
    few = f"{smaller} samples, fewer than the {KID_SUBSET} of the usual subset"
    return found._replace(warnings=(few,)) if smaller < KID_SUBSET else found


def _without_neighbours(features: np.ndarray) -> Reference:
    stats = FeatureStats.of(features)
    return Reference(features, stats, stats.factor(), np.empty((len(features), 0)))
