"""The 1,797 handwritten digits that scikit-learn ships: 8x8 grey, 17 grey levels (UCI optical recognition test set)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits

from pipeline.data.records import Record

HELD_OUT = 500
SPLIT_SEED = 20260


@dataclass(frozen=True)
class Source:
    """1,297 to train, 500 held out by a fixed permutation."""

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def records(self) -> Iterator[Record]:
        flat, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
        images = np.rint(flat.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
        for rank, index in enumerate(order):
            yield Record(images[index], int(labels[index]), "held_out" if rank < HELD_OUT else "train")
