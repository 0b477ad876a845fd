"""Means with 95 % intervals, and verdicts on differences: a difference within the noise has no winner."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import copysign, inf, isnan, nan, sqrt
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import chdtri, nctdtrinc, ndtri, stdtr, stdtrit

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


class Measured(NamedTuple):
    """A mean over n seeds and its interval, as a table has them; its values by training seed where they are known."""

    mean: float
    low: float
    high: float
    n: int
    by_seed: Mapping[int, float] = {}


class Comparison(NamedTuple):
    """Mean of a - b, its 95 % interval, the verdict on a, and the two-sided p-value of equality (NaN for one seed)."""

    difference: float
    low: float
    high: float
    verdict: Verdict
    n: int
    p: float


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


def by_seed_text(values: Mapping[int, float]) -> str:
    """A cell of a table: "0=0.31 1=0.28", by training seed."""
    return " ".join(f"{seed}={value:.6g}" for seed, value in values.items())


def by_seed_values(text: str) -> dict[int, float]:
    parts = (part.split("=") for part in text.split())
    return {int(seed): float(value) for seed, value in parts}


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
    values = np.subtract(values_a, values_b, dtype=np.float64)
    difference = interval(values)
    error = float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else nan
    p = _p_value(difference.mean, error, len(values) - 1)
    return Comparison(*difference[:3], _verdict(difference, better), difference.n, p)


def welch(a: Measured, b: Measured, better: Direction | None) -> Comparison:
    """a against b from their intervals alone, as independent means of unequal variance (Welch 1947)."""
    if min(a.n, b.n) < 2:
        return Comparison(a.mean - b.mean, nan, nan, "not resolvable", 1, nan)
    parts = np.array([((one.high - one.low) / 2 / t_quantile(one.n - 1)) ** 2 for one in (a, b)])
    mean, (error, freedom) = a.mean - b.mean, satterthwaite(parts, np.array([a.n - 1, b.n - 1]))
    half = t_quantile(freedom) * error
    difference = Interval(mean, mean - half, mean + half, min(a.n, b.n))
    return Comparison(*difference[:3], _verdict(difference, better), difference.n, _p_value(mean, error, freedom))


def satterthwaite(of_means: np.ndarray, freedom: np.ndarray) -> tuple[float, float]:
    """Standard error of a difference from the variances of two means, and its degrees of freedom."""
    total = float(of_means.sum())
    return sqrt(total), float(total**2 / (of_means**2 / freedom).sum()) if total else float(freedom.min())


def compared(a: Measured, b: Measured, better: Direction | None = None) -> Comparison:
    """a against b: `paired` where both have values of the same training seeds, else `welch`."""
    if len(a.by_seed) > 1 and a.by_seed.keys() == b.by_seed.keys():
        return paired(list(a.by_seed.values()), [b.by_seed[seed] for seed in a.by_seed], better)
    return welch(a, b, better)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: those below 5 % contain a false alarm in at most 5 % of families (Holm 1979). NaN: no test."""
    adjusted, highest = [nan] * len(p_values), 0.0
    order = sorted((p, index) for index, p in enumerate(p_values) if not isnan(p))
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = highest
    return adjusted


def scope(training_seeds: int) -> str:
    """What a verdict covers: a verdict on methods needs several training seeds; sampling seeds do not suffice."""
    if training_seeds < 1:
        raise ValueError(f"{training_seeds} training seeds: a verdict needs at least one trained network")
    if training_seeds == 1:
        return "for this checkpoint"
    if training_seeds < TRAINING_SEEDS_FOR_A_METHOD:
        return f"for these {training_seeds} checkpoints"
    return f"for the method, {training_seeds} training seeds"


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


def _p_value(mean: float, error: float, freedom: float) -> float:
    """Two-sided, of Student's t; error: the standard error of the mean."""
    if isnan(error):
        return nan
    t = mean / error if error else copysign(inf, mean) if mean else 0.0
    return 2 * float(stdtr(freedom, -abs(t)))


def _verdict(difference: Interval, better: Direction | None) -> Verdict:
    if not (difference.low > 0 or difference.high < 0):  # NaN bounds included
        return "not resolvable"
    if better is None:
        return "different"
    return "better" if (difference.low > 0) == (better == "higher") else "worse"
