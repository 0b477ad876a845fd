"""More seeds only where the best is in doubt; a winner only where it is resolved.

Every point gets one seed, then those that may still be the best get more, until the best is told from all others or the
budget of trials ends. Differences are judged by Student's t with the variance pooled over the points still in the race,
one-sided, the 5 % shared (Bonferroni) between the rivals, and between the looks where there are several.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from pipeline.intervals import Direction

ERROR = 0.05  # of naming a winner that is not the best


class Best(NamedTuple):
    best: str  # by the mean
    rivals: list[str]  # from which it is not told; none: it is resolved


def best_of(values: Mapping[str, Sequence[float]], better: Direction) -> Best:
    """Of points that were measured with equal seeds: value i of all is from seed i."""
    sign = 1.0 if better == "lower" else -1.0
    means = {name: sign * float(np.mean(found)) for name, found in values.items()}
    best = min(means, key=lambda name: means[name])
    others = [name for name in values if name != best]
    rivals = [name for name in others if not _told(sign, values[best], values[name], ERROR / len(others))]
    return Best(best, rivals)


def _told(sign: float, best: Sequence[float], other: Sequence[float], error: float) -> bool:
    """Whether `best` is lower (times sign), seed by seed."""
    n = min(len(best), len(other))
    difference = sign * np.subtract(other[:n], best[:n])
    if n < 2:
        return False
    half = float(stdtrit(n - 1, 1 - error)) * float(difference.std(ddof=1)) / sqrt(n)
    return bool(difference.mean() > half)
