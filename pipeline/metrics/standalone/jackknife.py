"""95 % intervals of one measurement, for other samples of the same generator.

Delete-a-group jackknife (Kott 2001): each tenth of the generated samples is left out once. A bootstrap would repeat
samples, which makes neighbourhoods smaller; the jackknife does not, and n, on which distances depend, changes little.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np

from pipeline.metrics.features.extractors import Features
from pipeline.metrics.intervals import t_quantile
from pipeline.metrics.values.kid import PolynomialKernel

GROUPS = 10
MIN_SAMPLES = 30  # that an interval needs
MAX_SAMPLES = 5_000  # that form groups, the first ones; with more, the half width is scaled
SEED = 0
INTERVAL = (
    f"95 %, for other generated samples and the same real ones: jackknife over {GROUPS} disjoint groups of the "
    f"generated samples (beyond {MAX_SAMPLES:,}: of the first so many, scaled by the root of the numbers), Student's t"
)


def half_widths(
    values: Callable[[Features], dict[str, float]], generated: Features, kid_against: np.ndarray | None
) -> dict[str, float]:
    """Half widths of 95 % intervals of what `values` returns, and of KID if its real features [m, d] are given.

    Empty below MIN_SAMPLES samples.
    """
    if len(generated) < MIN_SAMPLES:
        return {}
    taken = rows(generated, slice(MAX_SAMPLES))
    group_of = np.random.default_rng(SEED).permutation(len(taken)) % GROUPS
    draws = [values(rows(taken, np.flatnonzero(group_of != group))) for group in range(GROUPS)]
    without = {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
    if kid_against is not None:
        without["kid"] = _kid_without_groups(taken.features, kid_against, group_of)
    scale = sqrt(len(taken) / len(generated)) * t_quantile(GROUPS - 1)
    return {name: scale * sqrt((GROUPS - 1) * float(column.var())) for name, column in without.items()}


def rows(given: Features, index: slice | np.ndarray) -> Features:
    """A selection of the samples."""
    return Features(**{name: part[index] for name, part in vars(given).items() if part is not None})


def _kid_without_groups(generated: np.ndarray, real: np.ndarray, group_of: np.ndarray) -> np.ndarray:
    """[GROUPS] KID without each group, up to the term of the real samples, from kernel sums between groups."""
    kernel = PolynomialKernel.of_kid(real.shape[1])
    groups = [generated[group_of == group].astype(np.float64) for group in range(GROUPS)]
    across = np.array([kernel.sum(real, group) for group in groups])
    own = np.array([kernel.trace(group) for group in groups])
    between = np.zeros((GROUPS, GROUPS))
    for i in range(GROUPS):
        for j in range(i + 1):
            between[i, j] = between[j, i] = kernel.sum(groups[i], groups[j])
    kept = len(generated) - np.array([len(group) for group in groups])
    within = between.sum() - 2 * between.sum(axis=1) + np.diag(between) - (own.sum() - own)
    return within / (kept * (kept - 1)) - 2 * (across.sum() - across) / (kept * len(real))
