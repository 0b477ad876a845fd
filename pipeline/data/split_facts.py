"""Counts and moments of one split of a prepared dataset, shard by shard."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from pipeline.data.shards import Pictures


@dataclass
class SplitFacts:
    """Counts and moments of the shards of a split so far."""

    count: int = 0
    total: float = 0.0  # of all values in model coordinates
    squares: float = 0.0
    labels: Counter[int] = field(default_factory=Counter)
    digests: list[np.ndarray] = field(default_factory=list)  # uint64, one per image
    largest: float = -np.inf  # of all stored numbers
    rows: list[int] = field(default_factory=list)  # of each shard

    def add(self, pictures: Pictures) -> None:
        """A shard."""
        self.count += len(pictures)
        self.rows.append(len(pictures))
        self.largest = max(self.largest, float(pictures.images.max(initial=0)))
        total, squares = moments(pictures.images)
        self.total, self.squares = self.total + total, self.squares + squares
        self.labels.update(pictures.labels.tolist())
        digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pictures.images]
        self.digests.append(np.frombuffer(b"".join(digests), np.uint64))

    def std(self, values: int) -> float:
        """Standard deviation of all numbers. values: how many numbers an image has."""
        mean = self.total / (self.count * values)
        return round(float(np.sqrt(max(self.squares / (self.count * values) - mean**2, 0.0))), 6)


def moments(images: np.ndarray) -> tuple[float, float]:
    """Sum and sum of squares of all numbers, uint8 scaled to [-1, 1]: exact, by counting grey levels."""
    if images.dtype == np.uint8:
        counts = np.bincount(images.ravel(), minlength=256)
        levels = np.arange(256) / 127.5 - 1
        return float(counts @ levels), float(counts @ levels**2)
    values = images.astype(np.float64)
    return float(values.sum()), float(np.square(values).sum())
