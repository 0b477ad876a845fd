"""Points against an exactly known mixture: shares, modes and distances that see what a covariance cannot.

All in raw coordinates. The Frechet distance of the printed tables is blind to modes: never read it alone.
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

COORDINATES = "coordinates"


RADIUS = 1.0  # raw units: a point this near a centre belongs to its mode
FAIR_SHARE = 0.5  # of its share of all points makes a mode covered; a tenth would pass a blob without modes
BLOCK = 128, 4096  # pairs of points at a time, small enough for the cache
WIDER = 1 + 1e-9  # of radii in the tree; what lies on the border is settled exactly


@dataclass(frozen=True)
class MixtureDistribution:
    """Equally likely round Gaussians, each coordinate's noise clipped."""

    centres: np.ndarray  # [K, 2]
    std: float
    clip: float

    def __post_init__(self) -> None:
        if self.clip < RADIUS:
            raise ValueError(f"clip: {self.clip} came, at least {RADIUS}, the radius of a mode, was wanted")

    @classmethod
    def of(cls, facts: Mapping[str, Sequence[Sequence[float]] | float]) -> "MixtureDistribution":
        """From what `prepare` noted."""
        return cls(**{**facts, "centres": np.array(facts["centres"])})  # type: ignore[arg-type]

    @property
    def stray(self) -> float:
        """Exact share of points farther than RADIUS from every centre (clipping moves none across)."""
        return exp(-(RADIUS**2) / (2 * self.std**2))

    def count(self, points: np.ndarray) -> np.ndarray:
        """[K + 1] points of each mode, and of none."""
        distances, modes = KDTree(self.centres).query(points)
        return np.bincount(np.where(distances <= RADIUS, modes, len(self.centres)), minlength=len(self.centres) + 1)

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """[n] int64: the nearest mode."""
        return np.asarray(KDTree(self.centres).query(points)[1], np.int64)


class Share(NamedTuple):
    """What the counts say."""

    hq: MetricValue  # share of points within RADIUS of a centre
    modes: MetricValue  # with at least FAIR_SHARE of n / K points within RADIUS
    mode_kl: MetricValue  # nats, of the histogram with a bin for strays, from the exact one


def shares(points: np.ndarray, law: MixtureDistribution) -> Share:
    """points: [n, 2] raw."""
    counts = law.count(points)
    n, modes = len(points), len(law.centres)
    seen = counts / n
    exact = np.append(np.full(modes, (1 - law.stray) / modes), law.stray)
    there = seen > 0
    divergence = float((seen[there] * np.log(seen[there] / exact[there])).sum())
    few = (f"{n} points for {modes} modes: fewer than 20 each, even real ones miss some",) if n < 20 * modes else ()
    covered = int((counts[:-1] >= FAIR_SHARE * n / modes).sum())
    return Share(MetricValue(float(1 - seen[-1])), MetricValue(float(covered), few), MetricValue(divergence, few))


def energy_distance(generated: np.ndarray, real: np.ndarray, real_spread: float | None = None) -> MetricValue:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, unbiased, so slightly negative when equal (Szekely and Rizzo 2013, eq. 1.1).

    real_spread: E|Y - Y'| if it is at hand. Cost: n^2 distances, about 2 ns each.
    """
    across = _total(generated, real) / (len(generated) * len(real))
    own = mean_distance(real) if real_spread is None else real_spread
    return MetricValue(2 * across - mean_distance(generated) - own)


def mean_distance(points: np.ndarray) -> float:
    """Between two different points."""
    step = BLOCK[1]
    blocks = [points[start : start + step] for start in range(0, len(points), step)]
    total = sum(_total(blocks[i], blocks[j]) * (1 if i == j else 2) for i in range(len(blocks)) for j in range(i + 1))
    return total / (len(points) * (len(points) - 1))


def reference(points: np.ndarray) -> Reference:
    """As `Reference.of`, for two coordinates: a tree finds neighbours among hundreds of thousands in a second."""
    stats = FeatureStats.of(points)
    count = min(NEIGHBOURS, len(points) - 1)
    return Reference(points, stats, stats.factor(), _neighbours(points, count))


def precision_and_recall(generated: np.ndarray, real: Reference, k: int) -> tuple[MetricValue, MetricValue]:
    """As `metrics.manifold`, by trees."""
    if k >= len(generated):
        raise ValueError(f"k = {k} with {len(generated)} generated points: pass at least {k + 1}")
    around_real, around_generated = real.neighbours[:, k - 1], _neighbours(generated, k)[:, k - 1]
    precision, recall = (
        _inside(generated, real.features, around_real), _inside(real.features, generated, around_generated)
    )  # fmt: skip
    return MetricValue(float(precision.mean())), MetricValue(float(recall.mean()))


def _inside(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """[n] bool: within any ball, its border included. radii: squared."""
    found = KDTree(points).query_ball_point(centres, np.sqrt(radii) * WIDER)
    ball = np.repeat(np.arange(len(centres)), [len(rows) for rows in found])
    point = np.concatenate([np.asarray(rows, np.int64) for rows in found])
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
    """[n, 2] float64: the coordinates before they were centred and scaled for networks."""
    return images.astype(np.float64) / affine["scale"] + affine["centre"]
