"""Images (or points) in shards: a row each, many rows per file.

Prepared data are Arrow files, laid out as in memory, so that reading maps them; samples are compressed Parquet, which
other tools read. Both have the same columns.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.foreign_files import head_of, wrong_file
from pipeline.errors import ArtifactError

MAX_SHARD_ROWS = 50_000
MAX_SHARD_BYTES = 2**25  # of the images alone
ARROW_MAGIC = b"ARROW1"  # the first bytes of an Arrow file
ARROW_STREAM = b"\xff\xff\xff\xff"  # of an Arrow stream, which Hugging Face's save_to_disk writes
ROWS_PER_READ = 1024
LISTS = ("attributes", "tokens")  # columns that only some data have: a list of equal length in every row


class Pictures(NamedTuple):
    """n images or points, in memory or mapped."""

    images: np.ndarray  # [n, C, H, W] uint8, or [n, D] float32 for points
    labels: np.ndarray  # [n] int64; -1 where the data has none
    seeds: np.ndarray  # [n] int64: a sample's own seed, a record's number in its source
    attributes: np.ndarray | None = None  # [n, A] integers, where the data have attributes
    tokens: np.ndarray | None = None  # [n, L] integers, where they have captions

    def __len__(self) -> int:  # type: ignore[override]
        return len(self.images)

    @classmethod
    def join(cls, parts: Iterable["Pictures"]) -> "Pictures":
        """One part is returned as it is, not copied."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        return cls(*(None if column[0] is None else np.concatenate(column) for column in zip(*parts)))  # type: ignore[arg-type]

    def by_shard(self) -> Iterator[tuple[slice, "Pictures"]]:
        """As `ShardedRows.by_shard`; here everything is one shard."""
        yield slice(None), self

    def read(self) -> "Pictures":
        return self

    def take(self, index: slice | np.ndarray) -> "Pictures":
        return self.each(lambda part: part[index])

    def each(self, change: Callable[[np.ndarray], np.ndarray]) -> "Pictures":
        """`change` applied to every array."""
        lists = (None if part is None else change(part) for part in (self.attributes, self.tokens))
        return Pictures(change(self.images), change(self.labels), change(self.seeds), *lists)


def rows_per_shard(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """For images or points of this shape."""
    return max(1, min(MAX_SHARD_ROWS, MAX_SHARD_BYTES // (int(np.prod(shape)) * dtype.itemsize)))


def encode(pictures: Pictures) -> bytes:
    """One Parquet file; equal images give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(_table(pictures), sink, compression="zstd")
    return sink.getvalue()


def encode_arrow(pictures: Pictures) -> bytes:
    """One Arrow file, as in memory; equal images give equal bytes."""
    table = _table(pictures)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def decode(source: bytes | Path) -> Pictures:
    """The content of one file; an Arrow file is mapped, not read. ArtifactError if it is not readable."""
    table = read_table(source)
    metadata = table.schema.field("image").metadata
    shape = tuple(int(side) for side in metadata[b"shape"].decode().split(","))
    images = np.empty((0, *shape), metadata[b"dtype"].decode())
    if len(table):
        column = table["image"].combine_chunks()
        values = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        start = values.offset * values.type.byte_width
        images = np.frombuffer(values.buffers()[1], images.dtype, len(values) * int(np.prod(shape)), start)
    known = [_lists(table, name) for name in LISTS]
    return Pictures(images.reshape(-1, *shape), table["label"].to_numpy(), table["seed"].to_numpy(), *known)


def read_table(source: bytes | Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet or an Arrow file. columns: all that is read of Parquet. ArtifactError if it is not readable."""
    try:
        file = pa.memory_map(str(source)) if isinstance(source, Path) else pa.BufferReader(source)
        is_arrow = file.read(len(ARROW_MAGIC)) == ARROW_MAGIC
        file.seek(0)
        return pa.ipc.open_file(file).read_all() if is_arrow else pq.read_table(file, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{source if isinstance(source, Path) else 'a shard'} is not readable: {error}") from None


def open_table(file: Path, columns: Sequence[str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema of a Parquet file, an Arrow file or an Arrow stream, and the rows of some columns, in batches."""
    try:
        mapped = pa.memory_map(str(file))
        head = mapped.read(len(ARROW_MAGIC))
        mapped.seek(0)
        if head == ARROW_MAGIC or head.startswith(ARROW_STREAM):
            arrow = pa.ipc.open_file(mapped) if head == ARROW_MAGIC else pa.ipc.open_stream(mapped)
            schema = arrow.schema
            batches = map(arrow.get_batch, range(arrow.num_record_batches)) if head == ARROW_MAGIC else iter(arrow)
        else:
            parquet = pq.ParquetFile(mapped)
            schema = parquet.schema_arrow
            batches = parquet.iter_batches(ROWS_PER_READ, columns=[name for name in columns if name in schema.names])
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None
    return schema, _readable(batches, file)


def _readable(batches: Iterator[pa.RecordBatch], file: Path) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> ArtifactError:
    reason = wrong_file(head_of(file)) if file.is_file() else None
    return ArtifactError(f"{file} is not readable as Parquet or Arrow: {reason or ' '.join(str(error).split())}")


def write_pictures(folder: Path, split: str, pictures: Pictures) -> None:
    """split-00000.parquet, ..."""
    write_parts(folder, split, iter([pictures]))


def write_parts(folder: Path, split: str, parts: Iterator[Pictures]) -> None:
    """The shards of all parts joined, with one shard in memory at a time."""
    buffer, number = next(parts), count()
    rows = rows_per_shard(buffer.images.shape[1:], buffer.images.dtype)
    while len(buffer):
        while len(buffer) < rows and (part := next(parts, None)) is not None:
            buffer = Pictures.join([buffer, part])
        (folder / f"{split}-{next(number):05d}.parquet").write_bytes(encode(buffer.take(slice(rows))))
        buffer = buffer.take(slice(rows, None))
        buffer = buffer if len(buffer) else next(parts, buffer)


def read_pictures(folder: Path, split: str) -> Pictures:
    """A split as one array; a single Arrow shard is mapped. ArtifactError if there is none."""
    return Pictures.join(map(decode, shard_files(folder, split)))


def shard_files(folder: Path, split: str) -> list[Path]:
    files = sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}-*.arrow")])
    if not files:
        raise ArtifactError(f"{folder} holds no {split}-*.arrow or .parquet")
    return files


def count_rows(file: Path) -> int:
    """The images are not read."""
    return len(read_table(file, ["label"]))


def _table(pictures: Pictures) -> pa.Table:
    images = np.ascontiguousarray(pictures.images)
    width = int(np.prod(images.shape[1:])) * images.dtype.itemsize
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(images), [None, pa.py_buffer(images)])
    metadata = {"shape": ",".join(map(str, images.shape[1:])), "dtype": images.dtype.str}
    field = pa.field("image", column.type, nullable=False, metadata=metadata)
    schema = pa.schema([field, pa.field("label", pa.int64()), pa.field("seed", pa.int64())])
    table = pa.table([column, pa.array(pictures.labels), pa.array(pictures.seeds)], schema=schema)
    for name in LISTS:
        if (rows := getattr(pictures, name)) is not None:
            table = table.append_column(name, pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1]))
    return table


def _lists(table: pa.Table, name: str) -> np.ndarray | None:
    """[n, length] of a column of lists; None if there is no such column."""
    if name not in table.schema.names:
        return None
    lists = table[name].combine_chunks()
    values = lists.flatten() if len(table) else pa.array([], table[name].type.value_type)
    return values.to_numpy().reshape(-1, table[name].type.list_size)
