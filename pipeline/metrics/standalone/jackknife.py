"""95 % intervals of one measurement, over other samples of the same generator.

Delete-a-group jackknife (Kott 2001): each tenth of the generated samples is left out once. A bootstrap would repeat
samples, which shrinks neighbourhoods; the jackknife does not, and hardly changes n, on which distances depend.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np

from pipeline.metrics.features.extractors import Features
from pipeline.metrics.intervals import t_quantile
from pipeline.metrics.values.kid import PolynomialKernel

GROUPS = 10
SMALLEST = 30  # samples that an interval needs
LARGEST = 5_000  # only the first so many samples form groups; the half width is then scaled
SEED = 0
INTERVAL = (
    f"95 %, for other generated samples and the same real ones: jackknife over {GROUPS} disjoint groups of the "
    f"generated samples (beyond {LARGEST:,}: of the first so many, scaled by the root of the numbers), Student's t"
)


def half_widths(
    values: Callable[[Features], dict[str, float]], generated: Features, kid_against: np.ndarray | None
) -> dict[str, float]:
    """Half widths of 95 % intervals of all that `values` returns, and of KID against real features [m, d] if given.

    Empty below SMALLEST samples.
    """
    if len(generated) < SMALLEST:
        return {}
    taken = rows(generated, slice(LARGEST))
    member = np.random.default_rng(SEED).permutation(len(taken)) % GROUPS
    draws = [values(rows(taken, np.flatnonzero(member != group))) for group in range(GROUPS)]
    without = {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
    if kid_against is not None:
        without["kid"] = _kid_without_groups(taken.features, kid_against, member)
    scale = sqrt(len(taken) / len(generated)) * t_quantile(GROUPS - 1)
    return {name: scale * _standard_error(column) for name, column in without.items()}


def rows(given: Features, index: slice | np.ndarray) -> Features:
    """Some of the samples."""
    return Features(**{name: part[index] for name, part in vars(given).items() if part is not None})


def _standard_error(without: np.ndarray) -> float:
    return sqrt((len(without) - 1) * float(without.var()))


def _kid_without_groups(generated: np.ndarray, real: np.ndarray, member: np.ndarray) -> np.ndarray:
    """[GROUPS] KID without each group, less the term of the real samples alone, from kernel sums between groups."""
    kernel = PolynomialKernel.of_kid(real.shape[1])
    parts = [generated[member == group].astype(np.float64) for group in range(GROUPS)]
    across = np.array([kernel.sum(real, part) for part in parts])
    own = np.array([kernel.trace(part) for part in parts])
    between = np.zeros((GROUPS, GROUPS))
    for i in range(GROUPS):
        for j in range(i + 1):
            between[i, j] = between[j, i] = kernel.sum(parts[i], parts[j])
    kept = len(generated) - np.array([len(part) for part in parts])
    within = between.sum() - 2 * between.sum(axis=1) + np.diag(between) - (own.sum() - own)
    return within / (kept * (kept - 1)) - 2 * (across.sum() - across) / (kept * len(real))
