"""Kernel distance: unbiased squared MMD with k(a, b) = (a.b / d + 1)^3 (Binkowski et al. 2018, eq. 4).

For equal distributions 0 in expectation at any n, so a little below 0 about half of the time; no upper bound; lower is
better.
"""

from typing import NamedTuple

import numpy as np

from pipeline.metrics.card import MetricValue
from pipeline.metrics.features.statistics import check_pair

BLOCK_PAIRS = 2**23  # kernel values in memory at a time


class PolynomialKernel(NamedTuple):
    """k(a, b) = (gamma a.b + coef0)^degree."""

    degree: int
    gamma: float
    coef0: float

    @classmethod
    def of_kid(cls, width: int) -> "PolynomialKernel":
        """(a.b / d + 1)^3 for features of width d."""
        return cls(degree=3, gamma=1 / width, coef0=1.0)

    def sum(self, a: np.ndarray, b: np.ndarray) -> float:
        """Over all pairs of a row of a and a row of b."""
        step = max(1, BLOCK_PAIRS // max(1, len(b)))
        blocks = (a[start : start + step] @ b.T for start in range(0, len(a), step))
        return float(sum(self._of(products).sum() for products in blocks))

    def trace(self, a: np.ndarray) -> float:
        """Of each row with itself."""
        return float(self._of(np.square(a).sum(axis=1)).sum())

    def _of(self, products: np.ndarray) -> np.ndarray:
        return (products * self.gamma + self.coef0) ** self.degree


def kid(generated: np.ndarray, real: np.ndarray) -> MetricValue:
    """[n, d] and [m, d], all samples at once. Cost: n^2 + m^2 + n m kernel values."""
    check_pair(generated, real)
    return MetricValue(_cubic_mmd2(generated, real))


def kid_of_subsets(
    generated: np.ndarray, real: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> MetricValue:
    """As in papers: mean and standard deviation over random subsets, drawn as in torch-fidelity."""
    check_pair(generated, real)
    if min(len(generated), len(real)) < subset_size:
        raise ValueError(
            f"KID subsets of {subset_size} from {len(generated)} generated and {len(real)} real samples: "
            f"lower subset_size to {min(len(generated), len(real))} or use all samples at once"
        )
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        rows = [rng.choice(len(side), subset_size, replace=False) for side in (generated, real)]
        values.append(_cubic_mmd2(generated[rows[0]], real[rows[1]]))
    return MetricValue(float(np.mean(values)), spread=float(np.std(values)))


def polynomial_mmd2(x: np.ndarray, y: np.ndarray, degree: int, gamma: float, coef0: float) -> float:
    """Unbiased squared MMD of [n, d] and [m, d] with k(a, b) = (gamma a.b + coef0)^degree (Gretton 2012, eq. 3)."""
    kernel = PolynomialKernel(degree, gamma, coef0)

    def within(a: np.ndarray) -> float:
        return (kernel.sum(a, a) - kernel.trace(a)) / (len(a) * (len(a) - 1))

    x, y = x.astype(np.float64), y.astype(np.float64)
    return within(x) + within(y) - 2 * kernel.sum(x, y) / (len(x) * len(y))


def _cubic_mmd2(generated: np.ndarray, real: np.ndarray) -> float:
    return polynomial_mmd2(generated, real, *PolynomialKernel.of_kid(real.shape[1]))
