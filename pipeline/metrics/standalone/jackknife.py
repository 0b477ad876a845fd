"""Intervals of one measurement: how far it would lie elsewhere with other samples of the same generator.

Delete-a-group jackknife (Kott 2001): a tenth of the generated samples is left out at a time. Unlike a bootstrap it
makes no duplicates, which would shrink neighbourhoods, and it hardly changes n, on which distances depend.
"""

from collections.abc import Callable
from math import sqrt

import numpy as np

from pipeline.metrics.features.extractors import Features
from pipeline.metrics.intervals import t_quantile

GROUPS = 10
SMALLEST = 30  # fewer get no interval
LARGEST = 5_000  # samples that are regrouped; of more, so many are taken and the spread is scaled
SEED = 0
INTERVAL = (
    f"95 %, for other generated samples and the same real ones: jackknife over {GROUPS} disjoint groups of the "
    f"generated samples (beyond {LARGEST:,}: of the first so many, scaled by the root of the numbers), Student's t"
)


def half_widths(
    values: Callable[[Features], dict[str, float]], generated: Features, kid_against: np.ndarray | None
) -> dict[str, float]:
    """Half widths of 95 % intervals: of what `values` returns, and of KID against real features [m, d] if given.

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
    logits, spatial, labels = (
        None if part is None else part[index] for part in (given.logits, given.spatial, given.labels)
    )
    return Features(given.features[index], logits, spatial, given.shape, labels)


def _standard_error(without: np.ndarray) -> float:
    return sqrt((len(without) - 1) * float(without.var()))


def _kid_without_groups(generated: np.ndarray, real: np.ndarray, member: np.ndarray) -> np.ndarray:
    """[GROUPS] KID without each group, apart from the real samples' own part, from sums between groups."""
    parts = [generated[member == group].astype(np.float64) for group in range(GROUPS)]
    across = np.array([_sum(part, real) for part in parts])
    own = np.array([float(_kernel(np.square(part).sum(axis=1) / part.shape[1]).sum()) for part in parts])
    between = np.zeros((GROUPS, GROUPS))
    for i in range(GROUPS):
        for j in range(i + 1):
            between[i, j] = between[j, i] = _sum(parts[i], parts[j])
    kept = len(generated) - np.array([len(part) for part in parts])
    within = between.sum() - 2 * between.sum(axis=1) + np.diag(between) - (own.sum() - own)
    return within / (kept * (kept - 1)) - 2 * (across.sum() - across) / (kept * len(real))


def _sum(left: np.ndarray, right: np.ndarray) -> float:
    step = max(1, 2**23 // max(1, len(left)))
    blocks = (right[start : start + step] for start in range(0, len(right), step))
    return float(sum(_kernel(left @ block.T / left.shape[1]).sum() for block in blocks))


def _kernel(products: np.ndarray) -> np.ndarray:
    return (products + 1) ** 3
