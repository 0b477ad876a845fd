"""Scikit-learn's real digits as the tests use them."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits


class Split(NamedTuple):
    """1,297 pictures to train and 500 held out, uint8 [n, 1, 8, 8]."""

    train: np.ndarray
    train_labels: np.ndarray
    held_out: np.ndarray
    held_out_labels: np.ndarray


def digits() -> Split:
    pixels, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    images = np.round(pixels * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    order = np.random.default_rng(0).permutation(len(images))
    train, held_out = order[:1297], order[1297:]
    return Split(images[train], labels[train], images[held_out], labels[held_out])
