"""Pictures (or points) in shards: one row each, never one file each.

Prepared data lie in Arrow files as they are in memory, so that opening them costs nothing and reading maps them;
samples lie in Parquet, compressed, which everybody's tools read. Both hold the same columns.
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ArtifactError

ROWS = 50_000  # at most, per file
SHARD_BYTES = 2**25  # of pictures, at most, per file


class Pictures(NamedTuple):
    """n pictures in memory, or mapped into it."""

    images: np.ndarray  # [n, C, H, W] uint8, or [n, D] float32 for points
    labels: np.ndarray  # [n] int64; -1 where the data has none
    seeds: np.ndarray  # [n] int64: a sample's own seed, a record's number in its source

    def __len__(self) -> int:  # type: ignore[override]
        return len(self.images)

    @classmethod
    def join(cls, parts: Iterable["Pictures"]) -> "Pictures":
        whole = list(parts)
        if len(whole) == 1:
            return whole[0]
        images, labels, seeds = zip(*whole)
        return cls(np.concatenate(images), np.concatenate(labels), np.concatenate(seeds))

    def rows(self, index: slice | np.ndarray) -> "Pictures":
        return Pictures(self.images[index], self.labels[index], self.seeds[index])


class Rows:
    """The images of several shards as one array to take rows from, without bringing them together."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self.starts = np.cumsum([0, *map(len, parts)])
        self.shape, self.dtype = (int(self.starts[-1]), *parts[0].shape[1:]), parts[0].dtype
        self._whole = np.dtype((np.void, parts[0][0].nbytes))  # a row as one element, which is copied at once
        self._parts = [part.reshape(len(part), -1).view(self._whole).ravel() for part in parts]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """index: [k] row numbers; the rows in that order, copied."""
        order = np.argsort(index)
        ordered = index[order]
        bounds = np.searchsorted(ordered, self.starts)
        taken = np.empty(len(index), self._whole)
        for part, start, low, high in zip(self._parts, self.starts, bounds, bounds[1:]):
            if low < high:
                taken[order[low:high]] = part[ordered[low:high] - start]
        return taken.view(self.dtype).reshape(-1, *self.shape[1:])


def rows_per_shard(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Of pictures of that shape."""
    return max(1, min(ROWS, SHARD_BYTES // (int(np.prod(shape)) * dtype.itemsize)))


def encode(pictures: Pictures) -> bytes:
    """One Parquet file; the same pictures give the same bytes."""
    sink = io.BytesIO()
    pq.write_table(_table(pictures), sink, compression="zstd")
    return sink.getvalue()


def encode_arrow(pictures: Pictures) -> bytes:
    """One Arrow file, as in memory; the same pictures give the same bytes."""
    table = _table(pictures)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def decode(source: bytes | Path) -> Pictures:
    """The pictures of one file; of an Arrow file they are mapped, not read."""
    table = read_table(source)
    described = table.schema.field("image").metadata
    shape = tuple(int(side) for side in described[b"shape"].decode().split(","))
    images = np.empty((0, *shape), described[b"dtype"].decode())
    if len(table):
        column = table["image"].combine_chunks()
        values = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        start = values.offset * values.type.byte_width
        images = np.frombuffer(values.buffers()[1], images.dtype, len(values) * int(np.prod(shape)), start)
    return Pictures(images.reshape(-1, *shape), table["label"].to_numpy(), table["seed"].to_numpy())


def read_table(source: bytes | Path) -> pa.Table:
    """Of a Parquet or an Arrow file."""
    try:
        if isinstance(source, Path) and source.suffix == ".arrow":
            return pa.ipc.open_file(pa.memory_map(str(source))).read_all()
        return pq.read_table(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{source if isinstance(source, Path) else 'a shard'} is not readable: {error}") from None


def write_pictures(folder: Path, split: str, pictures: Pictures) -> None:
    """split-00000.parquet, ..."""
    rows = rows_per_shard(pictures.images.shape[1:], pictures.images.dtype)
    for number, start in enumerate(range(0, len(pictures), rows)):
        shard = pictures.rows(slice(start, start + rows))
        (folder / f"{split}-{number:05d}.parquet").write_bytes(encode(shard))


def read_pictures(folder: Path, split: str) -> Pictures:
    """All of a split in one array; a single Arrow shard is mapped."""
    return Pictures.join(iterate_pictures(folder, split))


def iterate_pictures(folder: Path, split: str) -> Iterator[Pictures]:
    """A split, shard by shard."""
    files = sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}-*.arrow")])
    if not files:
        raise ArtifactError(f"{folder} holds no {split}-*.arrow or .parquet")
    return map(decode, files)


def map_images(folder: Path, split: str) -> tuple[np.ndarray | Rows, np.ndarray]:
    """Images and labels of a split to take batches from: mapped where they lie in Arrow files, whatever their size."""
    parts = list(iterate_pictures(folder, split))
    labels = np.concatenate([part.labels for part in parts])
    return (parts[0].images if len(parts) == 1 else Rows([part.images for part in parts])), labels


def _table(pictures: Pictures) -> pa.Table:
    images = np.ascontiguousarray(pictures.images)
    width = int(np.prod(images.shape[1:])) * images.dtype.itemsize
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(images), [None, pa.py_buffer(images)])
    described = {"shape": ",".join(map(str, images.shape[1:])), "dtype": images.dtype.str}
    field = pa.field("image", column.type, nullable=False, metadata=described)
    schema = pa.schema([field, pa.field("label", pa.int64()), pa.field("seed", pa.int64())])
    return pa.table([column, pa.array(pictures.labels), pa.array(pictures.seeds)], schema=schema)
