"""Nearest neighbours and membership in balls, fast and exact; all distances are squared Euclidean.

float32 matrix products decide the clear cases; pairs within their rounding error are compared by float64 differences.
So every result depends on the two vectors alone: not on block size, order, shards or number of threads.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**23  # of one block of the distance matrix: 32 MiB in float32
CACHE_ELEMENTS = 2**17  # of one batch of exact differences: 1 MiB in float64
EXTRA_CANDIDATES = 4  # beyond the wanted neighbours: then rounding seldom loses one


class Overlap(NamedTuple):
    """Membership of the points of two sets in the balls of the other set."""

    balls_around_left: np.ndarray  # [n_left] number of right balls that contain each left point
    balls_around_right: np.ndarray  # [n_right] number of left balls that contain each right point
    points_in_right: np.ndarray  # [n_right] number of left points inside each right ball


def squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[...] float64 of paired vectors [..., d]; the same bits for a pair in either order and any batch."""
    return np.square(left.astype(np.float64) - right).sum(axis=-1)


def nearest_distances(queries: np.ndarray, points: np.ndarray, count: int = 1) -> np.ndarray:
    """[n_queries, count] ascending squared distances to the nearest points, float64. Cost: one n x n x d product."""
    if count > len(points):
        raise ValueError(f"{count} nearest of {len(points)} points: pass at least {count}")
    left, right = _centred(queries, points)
    nearest = _Nearest.none(len(queries), min(count + EXTRA_CANDIDATES, len(points)))
    for block in _products(left, right):
        nearest.add(block.rows, block.distances, first=0)
    return _settled(nearest, left.norms + right.norms.max(), queries, points, count)


def neighbour_distances(points: np.ndarray, count: int) -> np.ndarray:
    """[n, count] ascending squared distances of each point to its nearest others, duplicates included.

    Cost: half a product, as each pair is computed once.
    """
    if count >= len(points):
        raise ValueError(f"{count} neighbours among {len(points)} points: pass at least {count + 1} points")
    (cloud,) = _centred(points)
    nearest = _Nearest.none(len(points), min(count + 1 + EXTRA_CANDIDATES, len(points)))
    for block in _products(cloud, cloud, upper_triangle=True):
        start, stop = block.rows.start, block.rows.stop
        nearest.add(block.rows, block.distances, first=start)
        nearest.add(slice(stop, len(points)), block.distances[:, stop - start :].T, first=start)
    return _settled(nearest, cloud.norms + cloud.norms.max(), points, points, count + 1)[:, 1:]


def overlap(left: np.ndarray, right: np.ndarray, left_radii: np.ndarray, right_radii: np.ndarray) -> Overlap:
    """Count memberships both ways from one product. radii: [n] squared; a point on the border is inside."""
    around_left, around_right, in_right = (np.zeros(len(side), dtype=np.int64) for side in (left, right, right))
    left_cloud, right_cloud = _centred(left, right)
    for block in _products(left_cloud, right_cloud):
        error = right_cloud.norms * block.slack + left_cloud.norms[block.rows, None] * block.slack
        bounds = block.distances - error, error.add_(block.distances)
        in_right_balls = _inside(bounds, right_radii[None, :], left[block.rows], right)
        in_left_balls = _inside(bounds, left_radii[block.rows, None], left[block.rows], right)
        around_left[block.rows] = np.count_nonzero(in_right_balls, axis=1)
        in_right += np.count_nonzero(in_right_balls, axis=0)
        around_right += np.count_nonzero(in_left_balls, axis=0)
    return Overlap(around_left, around_right, in_right)


class _Cloud(NamedTuple):
    points: Tensor  # [n, d] float32 about the common centre
    norms: Tensor  # [n] squared


class _Block(NamedTuple):
    """Some rows of the float32 distance matrix."""

    rows: slice
    distances: Tensor  # [rows, n] squared
    slack: float  # the error of a distance is at most slack times the sum of both norms


class _Nearest(NamedTuple):
    """The nearest points so far."""

    distances: Tensor  # [n, width] squared
    indices: Tensor  # [n, width] int64

    @classmethod
    def none(cls, n: int, width: int) -> "_Nearest":
        return cls(torch.full((n, width), torch.inf), torch.zeros((n, width), dtype=torch.int64))

    def add(self, rows: slice, distances: Tensor, first: int) -> None:
        """distances: [rows, m] to the points first, first + 1, ..."""
        width = self.distances.shape[1]
        new = distances.topk(min(width, distances.shape[1]), dim=1, largest=False)
        candidates = torch.cat([self.distances[rows], new.values], dim=1)
        indices = torch.cat([self.indices[rows], new.indices + first], dim=1)
        self.distances[rows], chosen = candidates.topk(width, dim=1, largest=False)
        self.indices[rows] = indices.gather(1, chosen)


def _centred(*sides: np.ndarray) -> list[_Cloud]:
    """Relative to the mean of the last side, for the smallest rounding errors in float32."""
    centre = sides[-1].mean(axis=0, dtype=np.float64)
    return [_cloud(side, centre) for side in sides]


def _cloud(side: np.ndarray, centre: np.ndarray) -> _Cloud:
    """In blocks, to need no second array as large as the points."""
    points, norms = torch.empty(side.shape), torch.empty(len(side))
    step = max(1, BLOCK_ELEMENTS // side.shape[1])
    for start in range(0, len(side), step):
        rows = slice(start, start + step)
        points[rows] = torch.from_numpy((side[rows] - centre).astype(np.float32))
        norms[rows] = points[rows].square().sum(dim=1)
    return _Cloud(points, norms)


def _products(left: _Cloud, right: _Cloud, upper_triangle: bool = False) -> Iterator[_Block]:
    step = max(1, BLOCK_ELEMENTS // len(right.points))
    for start in range(0, len(left.points), step):
        rows = slice(start, min(start + step, len(left.points)))
        columns = slice(start if upper_triangle else 0, None)
        product = torch.addmm(right.norms[columns], left.points[rows] * -2, right.points[columns].T)
        yield _Block(rows, product.add_(left.norms[rows, None]), _slack(left.points.shape[1]))


def _slack(width: int) -> float:
    """Error of a float32 distance over its two norms: 8 sqrt(d) u fails once in 10^13 (Higham and Mary 2019)."""
    return (8 * width**0.5 + 16) * float(np.finfo(np.float32).eps) / 2


def _settled(nearest: _Nearest, norms: Tensor, queries: np.ndarray, points: np.ndarray, count: int) -> np.ndarray:
    """Exact distances to the candidates; where another point might be nearer, the row is searched in full."""
    exact, indices = np.empty(nearest.indices.shape), nearest.indices.numpy()
    step = max(1, CACHE_ELEMENTS // (indices.shape[1] * points.shape[1]))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        exact[rows] = squared_distances(queries[rows, None], points[indices[rows]])
    exact.sort(axis=1)
    if exact.shape[1] < len(points):
        others = (nearest.distances[:, -1] - norms * _slack(points.shape[1])).numpy()  # lower bound of their distances
        last = exact[:, count - 1]
        for row in np.flatnonzero((last > others) & (last > 0)):
            exact[row, :count] = np.partition(squared_distances(queries[row], points), range(count))[:count]
    return exact[:, :count]


def _inside(bounds: tuple[Tensor, Tensor], radii: np.ndarray, queries: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[rows, n] bool: squared distance <= radius, which belongs to the queries [rows, 1] or to the points [1, n].

    bounds: lower and upper, of each distance.
    """
    low, high = bounds
    limits = torch.from_numpy(radii.astype(np.float32))
    inside = high <= limits
    rows, columns = (index.numpy() for index in (inside ^ (low <= limits)).nonzero(as_tuple=True))
    exact, step = inside.numpy(), max(1, CACHE_ELEMENTS // points.shape[1])
    for start in range(0, len(rows), step):
        i, j = rows[start : start + step], columns[start : start + step]
        exact[i, j] = squared_distances(queries[i], points[j]) <= np.broadcast_to(radii, exact.shape)[i, j]
    return exact
