"""The pictures of a split as one array to take rows from, whatever their number: never all of them in memory.

Arrow files at hand are mapped. What cannot be mapped (Parquet, files that stayed in a bucket) is read shard by shard.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyarrow.fs import FileSystem

from pipeline.data.artifacts import ELSEWHERE, MANIFEST, parse_manifest
from pipeline.data.shards import Pictures, count_rows, decode, shard_files
from pipeline.errors import ArtifactError


class Shard(NamedTuple):
    """One file of pictures."""

    place: Path | str  # the folder of its artifact, or the address of a store
    file: str
    rows: int
    is_mapped: bool

    def load(self) -> Pictures:
        if isinstance(self.place, Path):
            return decode(self.place / self.file)
        files, root = FileSystem.from_uri(self.place)
        try:
            with files.open_input_stream(f"{root.rstrip('/')}/{self.file}") as stream:
                return decode(stream.read())
        except FileNotFoundError:
            raise ArtifactError(f"{self.place} no longer holds {self.file}: run `trilemma prepare` again") from None
        except OSError as error:
            reason = " ".join(str(error).split())
            raise ArtifactError(
                f"{self.place}/{self.file}: {reason}: check the address, your credentials and the network"
            ) from error


class ShardedRows:
    """A view of shard rows; repeats allowed. Pickling sends file names, not pixels."""

    def __init__(self, shards: Sequence[Shard], order: np.ndarray | None = None) -> None:
        """order: [n] row numbers over all shards; None: each once."""
        self.shards = tuple(shards)
        self.starts = np.cumsum([0, *(shard.rows for shard in self.shards)])
        self.order = np.arange(self.starts[-1]) if order is None else order
        self.is_mapped = all(shard.is_mapped for shard in self.shards)

    def __reduce__(self):
        return ShardedRows, (self.shards, self.order)

    def __len__(self) -> int:
        return len(self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._first.shape)

    @property
    def dtype(self) -> np.dtype:
        return self._first.dtype

    @property
    def nbytes(self) -> int:
        return len(self) * self._first.nbytes

    @cached_property
    def labels(self) -> np.ndarray:
        """[n] int64."""
        parts = self._mapped if self.is_mapped else map(Shard.load, self.shards)
        return np.concatenate([part.labels for part in parts])[self.order]

    def rows(self, index: slice | np.ndarray) -> "ShardedRows":
        """Some of these, by their places; nothing is read."""
        return ShardedRows(self.shards, self.order[index])

    def spread(self, most: int) -> "ShardedRows":
        """So many at most, evenly spaced."""
        return self.rows(evenly(len(self), most))

    def read(self) -> Pictures:
        """All of them, in memory and in their order."""
        whole = Pictures(np.empty(self.shape, self.dtype), *np.empty((2, len(self)), np.int64))
        for places, part in self.pieces():
            for there, values in zip(whole, part):
                there[places] = values
        return whole

    def pieces(self) -> Iterator[tuple[np.ndarray, Pictures]]:
        """Shard by shard, each once, whatever the order; with the places of a piece's pictures among all."""
        by_number = np.argsort(self.order, kind="stable")
        numbers = self.order[by_number]
        bounds = np.searchsorted(numbers, self.starts)
        for shard, start, low, high in zip(self.shards, self.starts, bounds, bounds[1:]):
            if low < high:
                yield by_number[low:high], shard.load().rows(numbers[low:high] - start)

    def parts(self) -> "list[ShardedRows]":
        """What each shard has of them."""
        numbers = np.split(np.sort(self.order), np.searchsorted(np.sort(self.order), self.starts[1:-1]))
        found = zip(self.shards, numbers, self.starts)
        return [ShardedRows([shard], part - start) for shard, part, start in found if len(part)]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """index: [k] places; their images, copied."""
        if not self.is_mapped:
            return self.rows(index).read().images
        numbers = self.order[index]
        shard = np.searchsorted(self.starts, numbers, "right") - 1
        taken = self._memory[numbers * self._first.nbytes + self._offsets[shard]]
        return taken.view(self.dtype).reshape(-1, *self._first.shape)

    @cached_property
    def _first(self) -> np.ndarray:
        return (self._mapped[0] if self.is_mapped else self.shards[0].load()).images[0].copy()

    @cached_property
    def _mapped(self) -> list[Pictures]:
        return [shard.load() for shard in self.shards]

    @cached_property
    def _memory(self) -> np.ndarray:
        """What is mapped, as one array whose element i is the picture that would begin at byte i: one call of numpy
        takes rows of all shards, without sorting them or copying twice."""
        begin = min(part.images.ctypes.data for part in self._mapped)
        end = max(part.images.ctypes.data + part.images.nbytes for part in self._mapped)
        width = self._first.nbytes
        span = (ctypes.c_ubyte * (end - begin)).from_address(begin)
        return np.ndarray(end - begin - width + 1, np.dtype((np.void, width)), memoryview(span), strides=(1,))

    @cached_property
    def _offsets(self) -> np.ndarray:
        """[shards] bytes from row number times width to where the row lies in `_memory`."""
        begins = np.array([part.images.ctypes.data for part in self._mapped])
        return begins - begins.min() - self.starts[:-1] * self._first.nbytes


def evenly(n: int, most: int) -> np.ndarray:
    """So many of 0 ... n - 1 at most, ascending."""
    return np.arange(min(n, most)) * n // min(n, most)


def open_rows(folder: Path, split: str) -> ShardedRows:
    """All of a split."""
    if (folder / ELSEWHERE).is_file():
        shards = _elsewhere(folder, split, os.environ.get("TRILEMMA_STORE") or (folder / ELSEWHERE).read_text())
    else:
        files = shard_files(folder, split)
        shards = [Shard(folder, file.name, count_rows(file), file.suffix == ".arrow") for file in files]
    return ShardedRows([shard for shard in shards if shard.rows])


def _elsewhere(folder: Path, split: str, store: str) -> list[Shard]:
    """In a bucket; or in a store that is a folder, and mapped there."""
    manifest = parse_manifest((folder / MANIFEST).read_bytes(), folder / MANIFEST)
    names = sorted(name for name in manifest.files if name.startswith(f"{split}-") and name.endswith(".arrow"))
    files = [f"data/{manifest.files[name].sha256}" for name in names]
    rows = manifest.facts["rows"][split]
    is_bucket = "://" in store
    place = store if is_bucket else Path(store).absolute()
    return [Shard(place, file, count, not is_bucket) for file, count in zip(files, rows)]
