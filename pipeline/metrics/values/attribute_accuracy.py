"""Attribute accuracy: share of pictures whose attribute a classifier reads as it was stated; higher is better.

The classifier is trained on real pictures, whose attributes are known exactly. Its own errors lower the value of real
pictures, too: the real-vs-real value is the highest that a model can be expected to reach.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.metrics.card import MetricValue

UNSTATED = -1  # an attribute of which a picture may have any value


def attribute_accuracy(read: np.ndarray, wanted: np.ndarray, names: Sequence[str]) -> dict[str, MetricValue]:
    """read, wanted: [n, A] integers. By attribute, over the pictures for which it was stated; of those that are stated
    anywhere."""
    _check(read, wanted)
    stated = wanted != UNSTATED
    right = (read == wanted) & stated
    counts = stated.sum(axis=0)
    return {name: MetricValue(float(right[:, k].sum() / counts[k])) for k, name in enumerate(names) if counts[k]}


def all_attributes(read: np.ndarray, wanted: np.ndarray) -> MetricValue:
    """Share of pictures with every stated attribute right."""
    _check(read, wanted)
    return MetricValue(float(((read == wanted) | (wanted == UNSTATED)).all(axis=1).mean()))


def _check(read: np.ndarray, wanted: np.ndarray) -> None:
    if read.shape != wanted.shape or len(read) == 0:
        raise ValueError(f"attributes read {read.shape}, wanted {wanted.shape}: pass equal shapes, at least one row")
