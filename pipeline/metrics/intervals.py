"""Means with 95 % intervals, and verdicts on differences: a difference within the noise has no winner."""

from collections.abc import Sequence
from functools import lru_cache
from math import nan, sqrt
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import chdtri, nctdtrinc, ndtri, stdtrit

from pipeline.metrics.card import Direction

Verdict = Literal["better", "worse", "not resolvable", "different"]  # the last: where neither direction is better

CONFIDENCE = 0.95
ALPHA = 0.05  # false alarms of a comparison of equals
POWER = 0.8  # of a planned comparison
MOST_SEEDS = 1_000_000  # that are still named as a number
NORMAL_QUANTILE = 1.96  # of a two-sided 95 % interval, for a standard error from many values
TRAINING_SEEDS_FOR_A_METHOD = 3  # with fewer, a verdict is about these trained networks


class Interval(NamedTuple):
    """Mean over n seeds and its 95 % interval (Student's t); the bounds are NaN for one value."""

    mean: float
    low: float
    high: float
    n: int


class Comparison(NamedTuple):
    """Mean of a - b over shared seeds, its 95 % interval, and the verdict on a."""

    difference: float
    low: float
    high: float
    verdict: Verdict
    n: int


def interval(values: Sequence[float] | np.ndarray) -> Interval:
    """values: one per seed, independent."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"values are {values.tolist()}: pass a list of finite numbers, one per seed")
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Interval(mean, nan, nan, 1)
    half = half_width(values, (1 + CONFIDENCE) / 2)
    return Interval(mean, mean - half, mean + half, n)


def exactly(value: float) -> Interval:
    """Of a number that has no error, such as a count."""
    return Interval(float(value), float(value), float(value), 1)


def half_width(values: np.ndarray, probability: float) -> float:
    """Quantile of Student's t times the standard error of the mean; values: at least two."""
    return t_quantile(len(values) - 1, probability) * float(values.std(ddof=1)) / sqrt(len(values))


def t_quantile(freedom: float, probability: float = (1 + CONFIDENCE) / 2) -> float:
    """Of Student's t; by default for a two-sided 95 % interval."""
    return float(stdtrit(freedom, probability))


def paired(values_a: Sequence[float], values_b: Sequence[float], better: Direction | None) -> Comparison:
    """a against b; value i of both is of seed i, so that shared noise cancels. False alarms: 5 % of equal pairs."""
    if len(values_a) != len(values_b):
        raise ValueError(f"{len(values_a)} values against {len(values_b)}: pass one of each per shared seed")
    difference = interval(np.subtract(values_a, values_b))
    return Comparison(*difference[:3], _verdict(difference, better), difference.n)


def scope(training_seeds: int) -> str:
    """What a verdict covers: a verdict on methods needs several training seeds; sampling seeds do not suffice."""
    if training_seeds < 1:
        raise ValueError(f"{training_seeds} training seeds: a verdict needs at least one trained network")
    if training_seeds == 1:
        return "for this checkpoint"
    if training_seeds < TRAINING_SEEDS_FOR_A_METHOD:
        return f"for these {training_seeds} checkpoints"
    return f"for the method, {training_seeds} training seeds"


def _verdict(difference: Interval, better: Direction | None) -> Verdict:
    if not (difference.low > 0 or difference.high < 0):  # NaN bounds included
        return "not resolvable"
    if better is None:
        return "different"
    return "better" if (difference.low > 0) == (better == "higher") else "worse"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order: below ALPHA, one false alarm or more in the family has probability 5 %.

    Holm (1979), for tests that depend on each other in any way.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def minimum_detectable(standard_error: float, freedom: float, alpha: float = ALPHA) -> float:
    """The true difference that a two-sided t-test at level alpha resolves with probability POWER."""
    return standard_error * _noncentrality(freedom, alpha)


@lru_cache(4096)
def _noncentrality(freedom: float, alpha: float) -> float:
    """Of the t-distribution whose part beyond the test's bound is POWER."""
    bound = t_quantile(freedom, 1 - alpha / 2)
    if bound > 100:  # nctdtrinc would take hours; beyond, the estimated spread alone decides
        return bound * sqrt(float(chdtri(freedom, 1 - POWER)) / freedom)
    return float(nctdtrinc(freedom, 1 - POWER, bound))


def seeds_needed(differences: Sequence[float]) -> int | None:
    """Paired seeds in total, with which a 95 % interval excludes 0 with probability POWER.

    differences: of shared seeds, at least two; their mean and spread are taken for the true ones. None: no number does.
    """
    values = np.asarray(differences, dtype=np.float64)
    return seeds_for(float(values.mean()), float(values.std(ddof=1)))


def seeds_for(difference: float, spread: float, groups: int = 1, alpha: float = ALPHA) -> int | None:
    """Seeds with which a t-test at level alpha resolves a difference with probability POWER; None: no number does.

    spread: standard deviation of one seed's difference. groups: 2 if seeds are not paired, then seeds of each group.
    """
    effect = abs(difference) / spread if spread else np.inf if difference else 0.0
    fewest = ((ndtri(1 - alpha / 2) + ndtri(POWER)) / effect) ** 2 if effect else np.inf
    if fewest > MOST_SEEDS:
        return None
    n = max(2, int(np.ceil(fewest)))  # of a known spread; an estimated one needs a few more
    while minimum_detectable(1 / sqrt(n), groups * (n - 1), alpha) > effect:
        n += 1
    return n
