"""Frechet distance between Gaussians fitted to features: FID in Inception features (Heusel et al. 2017, eq. 6).

|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2), from 0 (equal moments), without an upper bound; lower is better.
Biased: larger for fewer samples, so only values at equal n can be compared.
"""

import numpy as np
from scipy.linalg import get_lapack_funcs

from pipeline.metrics.card import MetricValue
from pipeline.metrics.features.statistics import FeatureStats


def frechet_distance(generated: FeatureStats, real: FeatureStats, real_factor: np.ndarray | None = None) -> MetricValue:
    """Covariances with N - 1. real_factor: lower triangular L with S2 = L L^T, if known.

    (S1 S2)^1/2 has the eigenvalues of (L^T S1 L)^1/2.
    """
    if len(generated.mean) != len(real.mean):
        raise ValueError(f"generated width {len(generated.mean)}, real {len(real.mean)}: use one extractor for both")
    factor = real.factor() if real_factor is None else real_factor
    reduce = get_lapack_funcs(("sygst",), dtype=np.float64)[0]
    product, _ = reduce(generated.covariance, factor, itype=2, lower=1)  # L^T S1 L, its lower triangle
    roots = np.linalg.eigvalsh(product, UPLO="L")
    cross = np.sqrt(roots[roots > 0]).sum()
    shift = np.square(generated.mean - real.mean).sum()
    traces = np.trace(generated.covariance) + np.trace(real.covariance)
    warnings = tuple(
        f"{stats.n} {side} samples for {len(stats.mean)} features: a singular covariance, the distance is far too large"
        for side, stats in (("generated", generated), ("real", real))
        if stats.n <= len(stats.mean)
    )
    return MetricValue(float(shift + traces - 2 * cross), warnings)
