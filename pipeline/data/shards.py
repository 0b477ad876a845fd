"""Pictures (or points) in shards: one row each, never one file each.

Prepared data lie in Arrow files as they are in memory, so that opening them costs nothing and reading maps them;
samples lie in Parquet, compressed, which everybody's tools read. Both hold the same columns.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ArtifactError

ROWS = 50_000  # at most, per file
SHARD_BYTES = 2**25  # of pictures, at most, per file
ARROW = b"ARROW1"  # what such a file begins with


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

    def pieces(self) -> Iterator[tuple[slice, "Pictures"]]:
        """In one piece, since they are in memory."""
        yield slice(None), self

    def read(self) -> "Pictures":
        return self

    def rows(self, index: slice | np.ndarray) -> "Pictures":
        return Pictures(self.images[index], self.labels[index], self.seeds[index])


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
    with _readable(source):
        file = pa.memory_map(str(source)) if isinstance(source, Path) else pa.BufferReader(source)
        is_arrow = file.read(len(ARROW)) == ARROW
        file.seek(0)
        return pa.ipc.open_file(file).read_all() if is_arrow else pq.read_table(file)


@contextmanager
def _readable(source: bytes | Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{source if isinstance(source, Path) else 'a shard'} is not readable: {error}") from None


def write_pictures(folder: Path, split: str, pictures: Pictures) -> None:
    """split-00000.parquet, ..."""
    write_parts(folder, split, iter([pictures]))


def write_parts(folder: Path, split: str, parts: Iterator[Pictures]) -> None:
    """As if they were joined, with a shard of them in memory."""
    held, number = next(parts), count()
    rows = rows_per_shard(held.images.shape[1:], held.images.dtype)
    while len(held):
        while len(held) < rows and (part := next(parts, None)) is not None:
            held = Pictures.join([held, part])
        (folder / f"{split}-{next(number):05d}.parquet").write_bytes(encode(held.rows(slice(rows))))
        held = held.rows(slice(rows, None))
        held = held if len(held) else next(parts, held)


def read_pictures(folder: Path, split: str) -> Pictures:
    """All of a split in one array; a single Arrow shard is mapped."""
    return Pictures.join(iterate_pictures(folder, split))


def iterate_pictures(folder: Path, split: str) -> Iterator[Pictures]:
    """A split, shard by shard."""
    return map(decode, shard_files(folder, split))


def shard_files(folder: Path, split: str) -> list[Path]:
    files = sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}-*.arrow")])
    if not files:
        raise ArtifactError(f"{folder} holds no {split}-*.arrow or .parquet")
    return files


def count_rows(file: Path) -> int:
    """Without reading its pictures."""
    with _readable(file):
        return pq.read_metadata(file).num_rows if file.suffix == ".parquet" else len(read_table(file))


def _table(pictures: Pictures) -> pa.Table:
    images = np.ascontiguousarray(pictures.images)
    width = int(np.prod(images.shape[1:])) * images.dtype.itemsize
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(images), [None, pa.py_buffer(images)])
    described = {"shape": ",".join(map(str, images.shape[1:])), "dtype": images.dtype.str}
    field = pa.field("image", column.type, nullable=False, metadata=described)
    schema = pa.schema([field, pa.field("label", pa.int64()), pa.field("seed", pa.int64())])
    return pa.table([column, pa.array(pictures.labels), pa.array(pictures.seeds)], schema=schema)
