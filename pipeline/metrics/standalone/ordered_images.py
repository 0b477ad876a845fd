"""Pictures in an order that follows from their content, so that no value depends on the order of files."""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np

from pipeline.data.sample_order import content_order, digests
from pipeline.errors import UserError


class OrderedImages:
    """Their pixels are in a temporary file: the source is read once, and memory holds one batch."""

    def __init__(self, chunks: Iterable[np.ndarray], labels: np.ndarray | None) -> None:
        """chunks: uint8 [k, C, H, W]; labels: [n], of the samples."""
        shape, found, start = (0, 0, 0), list[np.ndarray](), 0
        with tempfile.TemporaryFile() as file:
            for images in chunks:
                shape, start = images.shape[1:], start + len(images)
                found.append(digests(images))
                _write(file, images)
            file.flush()
            self.digests = np.concatenate(found) if found else np.empty((0, 2), np.uint64)
            is_labelled = labels is not None and len(labels) == start
            self.order = content_order(self.digests, labels if is_labelled else None)
            self._stored = np.memmap(file, np.uint8, "r", shape=(start, *shape)) if start else np.empty((0, *shape))

    def __len__(self) -> int:
        return len(self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self._stored.shape[1:]

    def first(self) -> np.ndarray:
        """[1, C, H, W]."""
        return self._stored[self.order[:1]]

    def batches(self, size: int) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(self), size):
            positions = slice(start, start + size)
            yield positions, self._stored[self.order[positions]]


def digest_of(of_samples: np.ndarray) -> str:
    """SHA-256 of a set of samples in any order, from their digests."""
    return hashlib.sha256(np.sort(of_samples.view("u8,u8"), axis=0).tobytes()).hexdigest()


def _write(file: IO[bytes], images: np.ndarray) -> None:
    try:
        file.write(np.ascontiguousarray(images).tobytes())
    except OSError as error:
        where = tempfile.gettempdir()
        raise UserError(f"the pixels do not fit into {where} ({error.strerror}): set TMPDIR to a larger disk") from None
