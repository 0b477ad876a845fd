"""Batches of prepared data: which pictures a step sees follows from (seed, step) alone, for any number of workers.

Exactly shuffled, a fresh permutation of all pictures per epoch, wherever one can reach for any of them: on the GPU, in
memory, mapped. What streams past (files that stay in a bucket, compressed ones larger than `HELD`) is shuffled in two
stages: the shards of an epoch come in random order, and `WINDOW` of them at a time are mixed. Every picture still
comes once per epoch, but two pictures of one shard always come within the same window.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from methods.core.loop import batch_indices
from methods.core.pixels import from_uint8
from methods.core.rng import StepRng, fold
from methods.core.shapes import per_sample
from methods.core.types import Batch
from pipeline.context import Worker
from pipeline.data.row_index import ShardedRows
from pipeline.data.shards import Pictures
from pipeline.errors import UserError

RESIDENT = 0.1  # of a GPU's memory that one split may take
HELD = 2**31  # bytes of a split that is read into memory where it cannot be mapped
WINDOW = 8  # shards mixed at a time: a quarter of a GiB

Batches = Callable[[int], Batch]


@runtime_checkable
class Placeable(Protocol):
    """Batches that are better made in another way where a training runs."""

    def on(self, worker: Worker) -> Batches: ...


def placed(batches: Batches, worker: Worker) -> Batches:
    return batches.on(worker) if isinstance(batches, Placeable) else batches


@dataclass(frozen=True)
class Epochs:
    """A fresh permutation per epoch."""

    images: np.ndarray | ShardedRows | Tensor  # uint8, or float32 points
    labels: np.ndarray | Tensor | None
    batch: int
    seed: int
    flip: bool = False  # every picture left for right by a fair coin

    def __call__(self, step: int) -> Batch:
        index: Any = batch_indices(len(self.images), self.batch, self.seed, step).numpy()
        if isinstance(self.images, Tensor):
            index = torch.from_numpy(index).to(self.images.device)
        labels = None if self.labels is None else torch.as_tensor(self.labels[index])
        return seen(torch.as_tensor(self.images[index]), labels, self.seed, step, self.flip)


@dataclass(frozen=True)
class Prepared:
    """The same, of pictures that may be too many for memory: where they lie is decided where a training runs."""

    rows: ShardedRows
    is_labelled: bool
    batch: int
    seed: int
    flip: bool = False

    def on(self, worker: Worker) -> Batches:
        """From the GPU's memory if there is room; else mapped, read at once, or streamed."""
        device, size = worker.device, self.rows.nbytes
        if device.type == "cuda" and size <= RESIDENT * torch.cuda.get_device_properties(device).total_memory:
            return self._of(*(torch.from_numpy(part).to(device) for part in self.rows.read()[:2]))
        if self.rows.is_mapped:
            return self._of(self.rows, self.rows.labels)
        return self._of(*self.rows.read()[:2]) if size <= HELD else Stream(self, worker)

    def __call__(self, step: int) -> Batch:
        return self._of(self.rows, self.rows.labels)(step)

    def _of(self, images: np.ndarray | ShardedRows | Tensor, labels: np.ndarray | Tensor) -> Epochs:
        return Epochs(images, labels if self.is_labelled else None, self.batch, self.seed, self.flip)


def distinct(batches: Prepared) -> Prepared:
    """Refused if a step would see a picture twice."""
    if len(batches.rows) < batches.batch:
        came = f"train.batch: {batches.batch} came, but there are {len(batches.rows)} records to train on"
        raise UserError(f"{came}: take fewer at a time")
    return batches


@dataclass(frozen=True)
class Pairs:
    """Batches of real pictures and fakes, each walked in its own order."""

    real: Batches
    fake: Batches

    def on(self, worker: Worker) -> "Pairs":
        return Pairs(placed(self.real, worker), placed(self.fake, worker))

    def __call__(self, step: int) -> Batch:
        real, fake = self.real(step), self.fake(step)
        return Batch(real.images, real.labels, fake.images, fake.labels)


class Stream:
    """Batches of what passes by. Steps are asked for in order; any other is looked for from its epoch's beginning."""

    def __init__(self, of: Prepared, worker: Worker) -> None:
        self.of, self.worker, self.next_step = of, worker, -1
        self.passing: Iterator[Pictures] = iter(())

    def __call__(self, step: int) -> Batch:
        batch = self.of.batch
        if step != self.next_step:
            self.passing = _cut(self._windows(step * batch), batch)
        self.next_step = step + 1
        pictures = next(self.passing)
        labels = torch.from_numpy(pictures.labels) if self.of.is_labelled else None
        return seen(torch.from_numpy(pictures.images), labels, self.of.seed, step, self.of.flip)

    def _windows(self, skipped: int) -> Iterator[Pictures]:
        """All pictures of the `skipped // n`-th and later epochs in the order they are used, but for the first ones."""
        parts, seed = self.of.rows.parts(), self.of.seed
        for epoch in count(skipped // len(self.of.rows)):
            skip = max(0, skipped - epoch * len(self.of.rows))
            order = _permutation(len(parts), fold(seed, "shards", epoch))
            windows = [[parts[i] for i in order[start : start + WINDOW]] for start in range(0, len(order), WINDOW)]
            sizes = [sum(map(len, window)) for window in windows]
            first = int(np.searchsorted(np.cumsum(sizes), skip, "right"))
            skip -= sum(sizes[:first])
            coming = self.worker.ahead(ShardedRows.read, [part for window in windows[first:] for part in window])
            for number, window in enumerate(windows[first:], first):
                mixed = _permutation(sizes[number], fold(seed, "window", epoch, number))
                yield Pictures.join(islice(coming, len(window))).rows(mixed[skip:])
                skip = 0


def seen(stored: Tensor, labels: Tensor | None, seed: int, step: int, flip: bool) -> Batch:
    """As networks see them."""
    images = to_images(stored)
    if flip:
        coin = StepRng(seed, step, "flip").integers(2, len(images)).to(images.device)
        images = torch.where(per_sample(coin, images) > 0, images.flip(-1), images)
    return Batch(images, labels)


def to_images(stored: Tensor) -> Tensor:
    """uint8 pictures -> [-1, 1]; points stay as they are."""
    return from_uint8(stored) if stored.dtype == torch.uint8 else stored


def _cut(passing: Iterator[Pictures], batch: int) -> Iterator[Pictures]:
    """In batches of equal size."""
    held = next(passing)
    while True:
        while len(held) < batch:
            held = Pictures.join([held, next(passing)])
        yield held.rows(slice(batch))
        held = held.rows(slice(batch, None))


def _permutation(n: int, seed: int) -> np.ndarray:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
