"""Mean and covariance of features, merged from shards in any order."""

from dataclasses import dataclass
from functools import reduce

import numpy as np

BLOCK = 2**14  # features whose statistics are computed at once
ROWS_PER_PRODUCT = 4096


@dataclass(frozen=True)
class FeatureStats:
    """Count, mean and scatter of features in float64; a monoid under `merge`."""

    n: int
    mean: np.ndarray  # [d]
    scatter: np.ndarray  # [d, d] sum of (f - mean)(f - mean)^T

    @classmethod
    def of(cls, features: np.ndarray) -> "FeatureStats":
        """features: [n, d] with n >= 1; two passes, in blocks, with O(d^2) memory."""
        check_features(features)
        mean = features.mean(axis=0, dtype=np.float64)
        scatter = np.zeros((len(mean), len(mean)))
        for start in range(0, len(features), ROWS_PER_PRODUCT):
            centred = features[start : start + ROWS_PER_PRODUCT] - mean
            scatter += centred.T @ centred
        return cls(len(features), mean, scatter)

    def merge(self, other: "FeatureStats") -> "FeatureStats":
        """Statistics of both together (Chan, Golub and LeVeque 1979)."""
        if len(self.mean) != len(other.mean):
            raise ValueError(f"features of width {len(self.mean)} and {len(other.mean)}: use one extractor for both")
        n = self.n + other.n
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.n * other.n / n)
        return FeatureStats(n, self.mean + step * (other.n / n), scatter)

    @property
    def covariance(self) -> np.ndarray:
        """[d, d] unbiased (N - 1)."""
        if self.n < 2:
            raise ValueError(f"{self.n} sample has no covariance: pass at least 2")
        return self.scatter / (self.n - 1)

    def factor(self) -> np.ndarray:
        """L [d, d] lower triangular with L L^T = covariance, singular or not. Cost: d^3, once per reference."""
        covariance = self.covariance
        try:
            return np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            values, vectors = np.linalg.eigh(covariance)
            values[values < len(values) * np.finfo(np.float64).eps * values[-1]] = 0
            return np.asarray(np.linalg.qr((vectors * np.sqrt(values)).T, mode="r")).T


class Gathered:
    """Statistics of features that arrive in batches: the same bits for any batch sizes."""

    def __init__(self) -> None:
        self._merged: list[FeatureStats] = []
        self._rest: list[np.ndarray] = []

    def add(self, features: np.ndarray) -> None:
        rest = np.concatenate([*self._rest, features])
        while len(rest) > BLOCK:
            self._merge(rest[:BLOCK])
            rest = rest[BLOCK:]
        self._rest = [rest.copy()]

    def stats(self) -> FeatureStats:
        """Of all features; call it once, after the last `add`."""
        self._merge(*self._rest)
        return self._merged[0]

    def __bool__(self) -> bool:
        """Whether features were added."""
        return bool(self._rest)

    def _merge(self, block: np.ndarray) -> None:
        self._merged = [reduce(FeatureStats.merge, [*self._merged, FeatureStats.of(block)])]


def check_pair(generated: np.ndarray, real: np.ndarray) -> None:
    """An error if the features cannot be compared."""
    for side, features in (("generated", generated), ("real", real)):
        check_features(features)
        if len(features) < 2:
            raise ValueError(f"{len(features)} {side} sample: pass at least 2")
    if generated.shape[1] != real.shape[1]:
        raise ValueError(f"generated width {generated.shape[1]}, real {real.shape[1]}: use one extractor for both")


def check_features(features: np.ndarray) -> None:
    """An error unless features are [n, d] with n >= 1, all finite."""
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"features of shape {features.shape}: pass [n, d] with at least one row")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(f"{len(bad)} of {len(features)} feature rows are not finite, the first is row {bad[0]}")
