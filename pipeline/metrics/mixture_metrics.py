"""Metrics of points against an exactly known mixture, all in raw coordinates.

The Frechet distance of printed tables does not depend on modes: never read it alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import KDTree

from pipeline.metrics.card import MetricValue
from pipeline.metrics.features.extractors import NEIGHBOURS
from pipeline.metrics.features.nearest_neighbours import squared_distances
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats

COORDINATES = "coordinates"  # name of the extractor
RADIUS = 1.0  # raw units: a point this near a centre belongs to its mode
FAIR_SHARE = 0.5  # of n / K points make a mode covered; with 0.1, points without modes would cover all
BLOCK = 128, 4096  # rows and columns of distances at a time, small enough for the cache
RADIUS_MARGIN = 1 + 1e-9  # for radii in the tree; points near the border are then compared exactly


@dataclass(frozen=True)
class MixtureDistribution:
    """Equally likely round Gaussians, each coordinate's noise clipped."""

    centres: np.ndarray  # [K, 2]
    std: float
    clip: float

    def __post_init__(self) -> None:
        if self.clip < RADIUS:
            raise ValueError(f"clip is {self.clip}: pass at least {RADIUS}, the radius of a mode")

    @classmethod
    def of(cls, facts: Mapping[str, Sequence[Sequence[float]] | float]) -> "MixtureDistribution":
        """facts: `law` of a prepared dataset."""
        return cls(**{**facts, "centres": np.array(facts["centres"])})  # type: ignore[arg-type]

    @property
    def outlier_rate(self) -> float:
        """Exact share of points farther than RADIUS from every centre; clip >= RADIUS does not change it."""
        return exp(-(RADIUS**2) / (2 * self.std**2))

    def count(self, points: np.ndarray) -> np.ndarray:
        """[K + 1] numbers of points of each mode, then of outliers."""
        distances, modes = KDTree(self.centres).query(points)
        return np.bincount(np.where(distances <= RADIUS, modes, len(self.centres)), minlength=len(self.centres) + 1)

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """[n] int64: the nearest mode."""
        return np.asarray(KDTree(self.centres).query(points)[1], np.int64)


class Shares(NamedTuple):
    """Metrics that follow from the number of points of each mode."""

    hq: MetricValue  # high-quality rate: share of points within RADIUS of a centre, 0 to 1
    modes: MetricValue  # with at least FAIR_SHARE of n / K points within RADIUS, 0 to K
    mode_kl: MetricValue  # KL(counts || exact), nats, with one bin for outliers; from 0


def shares(points: np.ndarray, law: MixtureDistribution) -> Shares:
    """points: [n, 2] raw."""
    counts = law.count(points)
    n, modes = len(points), len(law.centres)
    share = counts / n
    exact = np.append(np.full(modes, (1 - law.outlier_rate) / modes), law.outlier_rate)
    hit = share > 0
    divergence = float((share[hit] * np.log(share[hit] / exact[hit])).sum())
    few = (f"{n} points for {modes} modes: fewer than 20 each, even real ones miss some",) if n < 20 * modes else ()
    covered = int((counts[:-1] >= FAIR_SHARE * n / modes).sum())
    return Shares(MetricValue(float(1 - share[-1])), MetricValue(float(covered), few), MetricValue(divergence, few))


def energy_distance(generated: np.ndarray, real: np.ndarray, real_distance: float | None = None) -> MetricValue:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely and Rizzo 2013, eq. 1.1), from 0; lower is better.

    Unbiased, so of equal distributions it is often slightly negative. real_distance: E|Y - Y'|, if it is known.
    Cost: n^2 distances, about 2 ns each.
    """
    across = _total(generated, real) / (len(generated) * len(real))
    within_real = mean_distance(real) if real_distance is None else real_distance
    return MetricValue(2 * across - mean_distance(generated) - within_real)


def mean_distance(points: np.ndarray) -> float:
    """E|X - X'| over pairs of different points."""
    step = BLOCK[1]
    blocks = [points[start : start + step] for start in range(0, len(points), step)]
    total = sum(_total(blocks[i], blocks[j]) * (1 if i == j else 2) for i in range(len(blocks)) for j in range(i + 1))
    return total / (len(points) * (len(points) - 1))


def reference(points: np.ndarray) -> Reference:
    """Equal to `Reference.of`, for two coordinates: a tree takes a second for hundreds of thousands of points."""
    stats = FeatureStats.of(points)
    count = min(NEIGHBOURS, len(points) - 1)
    return Reference(points, stats, stats.factor(), _neighbours(points, count))


def precision_and_recall(generated: np.ndarray, real: Reference, k: int) -> tuple[MetricValue, MetricValue]:
    """Equal to those of `manifold`, by trees."""
    if k >= len(generated):
        raise ValueError(f"k = {k} with {len(generated)} generated points: pass at least {k + 1}")
    around_real, around_generated = real.neighbours[:, k - 1], _neighbours(generated, k)[:, k - 1]
    precision = _inside(generated, real.features, around_real).mean()
    recall = _inside(real.features, generated, around_generated).mean()
    return MetricValue(float(precision)), MetricValue(float(recall))


def _inside(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """[n] bool: within any ball, borders included. radii: squared."""
    rows_of_ball = KDTree(points).query_ball_point(centres, np.sqrt(radii) * RADIUS_MARGIN)
    ball = np.repeat(np.arange(len(centres)), [len(rows) for rows in rows_of_ball])
    point = np.concatenate([np.asarray(rows, np.int64) for rows in rows_of_ball])
    inside = np.zeros(len(points), bool)
    inside[point[squared_distances(points[point], centres[ball]) <= radii[ball]]] = True
    return inside


def _neighbours(points: np.ndarray, count: int) -> np.ndarray:
    """[n, count] ascending squared distances to the nearest others."""
    nearest = KDTree(points).query(points, count + 1)[1]
    return np.sort(squared_distances(points[:, None], points[nearest]), axis=1)[:, 1:]


def _total(left: np.ndarray, right: np.ndarray) -> float:
    """Sum of all distances between [n, 2] and [m, 2]; in float32 about a common centre, sums in float64."""
    centre = right.mean(axis=0)
    left, right = ((side - centre).astype(np.float32) for side in (left, right))
    columns = np.ascontiguousarray(right.T)
    rows, width = BLOCK
    total = 0.0
    for first in range(0, len(right), width):
        x, y = columns[:, first : first + width]
        for start in range(0, len(left), rows):
            block = left[start : start + rows]
            squared = np.square(block[:, :1] - x)
            squared += np.square(block[:, 1:] - y)
            total += float(np.sqrt(squared, out=squared).sum(axis=1).sum(dtype=np.float64))
    return total


def raw(images: np.ndarray, affine: dict[str, Any]) -> np.ndarray:
    """[n, 2] float64: coordinates before they were centred and scaled for networks."""
    return images.astype(np.float64) / affine["scale"] + affine["centre"]
