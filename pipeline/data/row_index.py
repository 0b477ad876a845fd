"""The images of a split as one lazy array, which may be larger than memory.

Local Arrow files are mapped. What cannot be mapped (Parquet, files in a bucket) is read shard by shard.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyarrow.fs import FileSystem

from pipeline.data.artifacts import ELSEWHERE, read_manifest
from pipeline.data.shards import Pictures, count_rows, decode, shard_files
from pipeline.errors import ArtifactError


class Shard(NamedTuple):
    """One file of images."""

    folder: Path | str  # of its artifact; or the URI of a store
    file: str
    rows: int
    is_mapped: bool

    def load(self) -> Pictures:
        if isinstance(self.folder, Path):
            return decode(self.folder / self.file)
        files, root = FileSystem.from_uri(self.folder)
        try:
            with files.open_input_stream(f"{root.rstrip('/')}/{self.file}") as stream:
                return decode(stream.read())
        except FileNotFoundError:
            raise ArtifactError(f"{self.folder} no longer holds {self.file}: run `trilemma prepare` again") from None
        except OSError as error:
            where, reason = f"{self.folder}/{self.file}", " ".join(str(error).split())
            raise ArtifactError(f"{where}: {reason}: check the address, credentials and the network") from error


class ShardedRows:
    """A view of shard rows; repeats allowed. Pickling sends file names, not pixels."""

    def __init__(self, shards: Sequence[Shard], order: np.ndarray | None = None) -> None:
        """order: [n] row numbers over all shards; None: each row once."""
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
        return (len(self), *self._first.images.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self._first.images.dtype

    @property
    def nbytes(self) -> int:
        return len(self) * self._first.images.nbytes

    @cached_property
    def labels(self) -> np.ndarray:
        """[n] int64."""
        return self._column("labels")

    @cached_property
    def attributes(self) -> np.ndarray | None:
        """[n, A], where the data have attributes."""
        return self._column("attributes")

    @cached_property
    def tokens(self) -> np.ndarray | None:
        """[n, L], where the data have captions."""
        return self._column("tokens")

    def take(self, index: slice | np.ndarray) -> "ShardedRows":
        """The rows at these positions; nothing is read."""
        return ShardedRows(self.shards, self.order[index])

    def evenly_spaced(self, most: int) -> "ShardedRows":
        """At most so many rows, in order."""
        return self.take(even_positions(len(self), most))

    def read(self) -> Pictures:
        """All rows, in memory and in order."""
        result = self._first.each(lambda part: np.empty((len(self), *part.shape[1:]), part.dtype))
        for positions, part in self.by_shard():
            for array, values in zip(result, part):
                if array is not None:
                    array[positions] = values
        return result

    def by_shard(self) -> Iterator[tuple[np.ndarray, Pictures]]:
        """Each shard's rows, read once, with their positions in this array."""
        positions = np.argsort(self.order, kind="stable")
        for part in self.shard_views():
            yield positions[: len(part)], part.shards[0].load().take(part.order)
            positions = positions[len(part) :]

    def shard_views(self) -> "list[ShardedRows]":
        """Each shard's rows, ascending; shards without any are left out."""
        numbers = np.sort(self.order)
        by_shard = zip(self.shards, np.split(numbers, np.searchsorted(numbers, self.starts[1:-1])), self.starts)
        return [ShardedRows([shard], part - start) for shard, part, start in by_shard if len(part)]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """index: [k] positions. Copies of their images, [k, *shape]."""
        if not self.is_mapped:
            return self.take(index).read().images
        numbers = self.order[index]
        shard = np.searchsorted(self.starts, numbers, "right") - 1
        taken = self._memory[numbers * self._first.images.nbytes + self._offsets[shard]]
        return taken.view(self.dtype).reshape(-1, *self.shape[1:])

    @cached_property
    def _first(self) -> Pictures:
        """A copy of one row."""
        return (self._mapped[0] if self.is_mapped else self.shards[0].load()).take(np.array([0]))

    def _column(self, name: str) -> Any:
        if getattr(self._first, name) is None:
            return None
        parts = self._mapped if self.is_mapped else map(Shard.load, self.shards)
        return np.concatenate([getattr(part, name) for part in parts])[self.order]

    @cached_property
    def _mapped(self) -> list[Pictures]:
        return [shard.load() for shard in self.shards]

    @cached_property
    def _memory(self) -> np.ndarray:
        """All mapped shards as one array whose element i is the image that would begin at byte i.

        So one call of numpy takes rows of all shards, without sorting them or copying twice.
        """
        begin = min(part.images.ctypes.data for part in self._mapped)
        end = max(part.images.ctypes.data + part.images.nbytes for part in self._mapped)
        width = self._first.images.nbytes
        span = (ctypes.c_ubyte * (end - begin)).from_address(begin)
        return np.ndarray(end - begin - width + 1, np.dtype((np.void, width)), memoryview(span), strides=(1,))

    @cached_property
    def _offsets(self) -> np.ndarray:
        """[shards]: added to a row's number times its width, its index in `_memory`."""
        begins = np.array([part.images.ctypes.data for part in self._mapped])
        return begins - begins.min() - self.starts[:-1] * self._first.images.nbytes


def even_positions(n: int, most: int) -> np.ndarray:
    """At most so many of 0 ... n - 1, ascending."""
    return np.arange(min(n, most)) * n // min(n, most)


def open_rows(folder: Path, split: str) -> ShardedRows:
    """All rows of a split, of a prepared dataset or of samples."""
    if (folder / ELSEWHERE).is_file():
        shards = _elsewhere(folder, split, os.environ.get("TRILEMMA_STORE") or (folder / ELSEWHERE).read_text())
    else:
        files = shard_files(folder, split)
        shards = [Shard(folder, file.name, count_rows(file), file.suffix == ".arrow") for file in files]
    return ShardedRows([shard for shard in shards if shard.rows])


def _elsewhere(folder: Path, split: str, store: str) -> list[Shard]:
    """Shards that are in the store alone: read from a bucket, mapped where the store is a folder."""
    manifest = read_manifest(folder)
    names = sorted(name for name in manifest.files if name.startswith(f"{split}-") and name.endswith(".arrow"))
    root = store if (is_bucket := "://" in store) else Path(store).absolute()
    rows = zip(names, manifest.facts["rows"][split])
    return [Shard(root, f"data/{manifest.files[name].sha256}", count, not is_bucket) for name, count in rows]
