"""Batches of prepared data: the images of a step follow from (seed, step) alone; each worker reads its rows of them.

With random access (on the GPU, in memory, mapped) each epoch is a fresh permutation of all images. Streams (files in a
bucket, compressed ones larger than `MAX_READ_BYTES`) are shuffled in two stages: the shards of an epoch come in random
order, and `WINDOW_SHARDS` of them at a time are mixed. Each image still comes once per epoch, but two images of one
shard always come within the same window.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.core.loop import batch_indices
from methods.core.pixels import from_uint8
from methods.core.rng import StepRng, fold, rows_of_worker
from methods.core.shapes import per_sample
from methods.core.types import Batch
from pipeline.context import Worker
from pipeline.data.row_index import ShardedRows
from pipeline.data.shards import Pictures
from pipeline.errors import UserError

MAX_GPU_SHARE = 0.1  # of a GPU's memory, for one split
MAX_READ_BYTES = 2**31  # a split that cannot be mapped is read into memory up to this size
WINDOW_SHARDS = 8  # mixed at a time: a quarter of a GiB

Batches = Callable[[int], Batch]


def placed(batches: Batches, worker: Worker) -> Batches:
    """The worker's rows of each batch, made in the fastest way that it has; a plain function makes its rows itself."""
    return batches.on(worker) if isinstance(batches, Prepared | Pairs | Epochs) else batches


@dataclass(frozen=True)
class Epochs:
    """Batches with random access: a fresh permutation per epoch."""

    images: np.ndarray | ShardedRows | Tensor  # [n, C, H, W] uint8, or [n, D] float32 points
    labels: np.ndarray | Tensor | None  # [n], or [n, L] tokens
    batch: int
    seed: int
    flip: bool = False  # mirror each image with probability 1/2
    share: range | None = None  # rows of the batch; None: all
    attributes: np.ndarray | Tensor | None = None  # [n, A]

    def on(self, worker: Worker) -> "Epochs":
        return replace(self, share=rows_of_worker(self.batch, worker.rank, worker.world))

    def __call__(self, step: int) -> Batch:
        share = self.share or range(self.batch)
        index: Any = batch_indices(len(self.images), self.batch, self.seed, step)[share.start : share.stop].numpy()
        if isinstance(self.images, Tensor):
            index = torch.from_numpy(index).to(self.images.device)
        labels, attributes = (None if of is None else of[index] for of in (self.labels, self.attributes))
        return to_batch(self.images[index], labels, attributes, self.seed, step, self.flip, share)


@dataclass(frozen=True)
class Prepared:
    """As `Epochs`, of images that may exceed memory: the worker decides where they are kept."""

    rows: ShardedRows
    is_labelled: bool
    batch: int
    seed: int
    flip: bool = False
    text: bool = False  # captions take the place of labels

    def on(self, worker: Worker) -> Batches:
        """From the GPU's memory if there is room; else mapped, read into memory, or streamed."""
        device, size = worker.device, self.rows.nbytes
        if device.type == "cuda" and size <= MAX_GPU_SHARE * torch.cuda.get_device_properties(device).total_memory:
            return self._of(self.rows.read(), device).on(worker)
        if self.rows.is_mapped:
            return self._of(self.rows).on(worker)
        return self._of(self.rows.read()).on(worker) if size <= MAX_READ_BYTES else Stream(self, worker)

    def __call__(self, step: int) -> Batch:
        return self._of(self.rows)(step)

    def columns(self, of: Pictures | ShardedRows) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Labels (tokens, if text) and attributes; None for what the data do not have."""
        return of.tokens if self.text else of.labels if self.is_labelled else None, of.attributes

    def _of(self, kept: Pictures | ShardedRows, device: torch.device | None = None) -> Epochs:
        """device: where everything is copied to."""
        parts: list[Any] = [kept.images if isinstance(kept, Pictures) else kept, *self.columns(kept)]
        if device is not None:
            parts = [None if part is None else torch.from_numpy(part).to(device) for part in parts]
        images, labels, attributes = parts
        return Epochs(images, labels, self.batch, self.seed, self.flip, attributes=attributes)


def checked(batches: Prepared, workers: int) -> Prepared:
    """The same batches; UserError if one holds an image twice or the workers cannot share it. 0: no workers."""
    try:
        rows_of_worker(batches.batch, 0, max(workers, 1))
    except ValueError as error:
        raise UserError(f"train.{error}") from None
    if (count := len(batches.rows)) < batches.batch:
        raise UserError(f"train.batch: {batches.batch} came, but there are {count} records to train on: take fewer")
    return batches


@dataclass(frozen=True)
class Pairs:
    """Batches of real and of generated images, each in an order of its own."""

    real: Batches
    fake: Batches

    def on(self, worker: Worker) -> "Pairs":
        return Pairs(placed(self.real, worker), placed(self.fake, worker))

    def __call__(self, step: int) -> Batch:
        real, fake = self.real(step), self.fake(step)
        return real._replace(fakes=fake.images, fake_labels=fake.labels)


class Stream:
    """Batches without random access: successive steps are fast, any other step is searched from its epoch's start."""

    def __init__(self, of: Prepared, worker: Worker) -> None:
        self.of, self.worker, self.next_step = of, worker, -1
        self.share = rows_of_worker(of.batch, worker.rank, worker.world)
        self.stream: Iterator[Pictures] = iter(())

    def __call__(self, step: int) -> Batch:
        batch = self.of.batch
        if step != self.next_step:
            self.stream = _cut(self._windows(step * batch), batch)
        self.next_step = step + 1
        pictures = next(self.stream).take(slice(self.share.start, self.share.stop))
        return to_batch(pictures.images, *self.of.columns(pictures), self.of.seed, step, self.of.flip, self.share)

    def _windows(self, skipped: int) -> Iterator[Pictures]:
        """The images of all epochs in the order of their use, without the first `skipped` ones."""
        parts, seed = self.of.rows.shard_views(), self.of.seed
        for epoch in count(skipped // len(self.of.rows)):
            skip = max(0, skipped - epoch * len(self.of.rows))
            order = _permutation(len(parts), fold(seed, "shards", epoch))
            starts = range(0, len(order), WINDOW_SHARDS)
            windows = [[parts[i] for i in order[start : start + WINDOW_SHARDS]] for start in starts]
            sizes = [sum(map(len, window)) for window in windows]
            first = int(np.searchsorted(np.cumsum(sizes), skip, "right"))
            skip -= sum(sizes[:first])
            loaded = self.worker.ahead(ShardedRows.read, [part for window in windows[first:] for part in window])
            for number, window in enumerate(windows[first:], first):
                mixed = _permutation(sizes[number], fold(seed, "window", epoch, number))
                yield Pictures.join(islice(loaded, len(window))).take(mixed[skip:])
                skip = 0


def to_batch(images: Any, labels: Any, attributes: Any, seed: int, step: int, flip: bool, share: range) -> Batch:
    """Rows `share` of the batch, arrays or tensors; uint8 images become float32 in [-1, 1], points are float32."""
    stored = torch.as_tensor(images)
    if flip:
        coin = StepRng(seed, step, "flip", share).integers(2, len(stored)).to(stored.device)
        stored = torch.where(per_sample(coin, stored) > 0, stored.flip(-1), stored)
    labels, attributes = (None if part is None else torch.as_tensor(part).long() for part in (labels, attributes))
    return Batch(from_uint8(stored) if stored.dtype == torch.uint8 else stored, labels, attributes=attributes)


def _cut(stream: Iterator[Pictures], batch: int) -> Iterator[Pictures]:
    """Batches of equal size."""
    buffer = next(stream)
    while True:
        while len(buffer) < batch:
            buffer = Pictures.join([buffer, next(stream)])
        yield buffer.take(slice(batch))
        buffer = buffer.take(slice(batch, None))


def _permutation(n: int, seed: int) -> np.ndarray:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
