"""Combinations: the number of different attribute combinations among n samples, as a classifier reads them.

From 1 to n. Compare it with that of n real samples, the real-vs-real value: fewer are a collapse.
"""

import numpy as np

from pipeline.metrics.card import MetricValue


def combinations(read: np.ndarray) -> MetricValue:
    """read: [n, A] integers."""
    return MetricValue(float(len(np.unique(read, axis=0))))
