"""Races: more seeds only where the best point is in doubt, a winner only where it is resolved.

Every point gets one seed, the better half a second; then those that may still be the best get more, until the best is
resolved from all others or the budget of trials is spent. Differences are tested one-sided by Student's t, with the
variance pooled over the points still in the race (far worse ones are often the noisier); the error of 5 % is divided
among the rivals.
"""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import NamedTuple, TypeAlias

import numpy as np

from pipeline.metrics.card import Direction
from pipeline.metrics.intervals import half_width, t_quantile

ERROR = 0.05  # of naming a winner that is not the best
Values: TypeAlias = dict[str, list[float]]
PointSeeds: TypeAlias = list[tuple[str, int]]  # points, each with the number of a seed


class Best(NamedTuple):
    best: str  # by the mean
    rivals: list[str]  # from which it is not resolved


def race(
    points: Sequence[str],
    measure: Callable[[PointSeeds], Sequence[float | None]],
    budget: int,
    most: int,
    better: Direction,
) -> Values:
    """Values by point, one for each of its seeds. measure: runs several trials at once; a failed one (None) removes its
    point.

    budget: of trials; most: seeds of a point.
    """
    values: Values = {point: [] for point in points}
    spent = 0

    def run(chosen: Sequence[str]) -> None:
        nonlocal spent
        trials = [(point, len(values[point])) for point in chosen][: budget - spent]
        spent += len(trials)
        for (point, _), value in zip(trials, measure(trials)):
            if value is None:
                del values[point]
            else:
                values[point].append(value)

    run(list(points))
    sign = _sign(better)
    run(sorted(values, key=lambda point: sign * values[point][0])[: max(2, (len(values) + 1) // 2)])
    while values and (leader := best_of(values, better)).rivals and spent < budget:
        contenders = [leader.best, *leader.rivals]
        fewest = min(len(values[point]) for point in contenders)
        if fewest == most:
            break
        run([point for point in contenders if len(values[point]) == fewest])
    return values


def best_of(values: Mapping[str, Sequence[float]], better: Direction) -> Best:
    """The best of points with independent values. Of six equal points one is resolved in 2 % of races."""
    means, best, rivals = _ranked(values, _sign(better))
    error = ERROR / max(1, len(rivals))
    while True:  # the variance is of the best and its rivals alone
        variance, freedom = _pooled([values[name] for name in (best, *rivals)])
        if not freedom:
            return Best(best, rivals)
        quantile = t_quantile(freedom, 1 - error)
        left = [
            name
            for name in rivals
            if means[name] - means[best] <= quantile * sqrt(variance * (1 / len(values[name]) + 1 / len(values[best])))
        ]
        if left == rivals:
            return Best(best, rivals)
        rivals = left


def best_of_shared(values: Mapping[str, Sequence[float]], better: Direction) -> Best:
    """The best of points whose value i has the same seed i, so that what the seed contributes cancels."""
    sign = _sign(better)
    _, best, others = _ranked(values, sign)
    rivals = []
    for name in others:
        n = min(len(values[best]), len(values[name]))
        difference = sign * np.subtract(values[name][:n], values[best][:n])
        if n < 2 or not difference.mean() > half_width(difference, 1 - ERROR / len(others)):
            rivals.append(name)
    return Best(best, rivals)


def _ranked(values: Mapping[str, Sequence[float]], sign: float) -> tuple[dict[str, float], str, list[str]]:
    means = {name: sign * float(np.mean(own)) for name, own in values.items()}
    best = min(means, key=lambda name: means[name])
    return means, best, [name for name in values if name != best]


def _sign(better: Direction) -> float:
    return 1.0 if better == "lower" else -1.0


def _pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """The variance within groups, and its degrees of freedom."""
    freedom = sum(len(group) - 1 for group in groups)
    return (sum(len(group) * float(np.var(group)) for group in groups) / freedom if freedom else 0.0), freedom
