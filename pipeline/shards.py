"""Pictures (or points) as Parquet: one row each, never one file each."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ArtifactError

ROWS = 50_000  # per file


class Pictures(NamedTuple):
    """n pictures in memory."""

    images: np.ndarray  # [n, C, H, W] uint8, or [n, D] float32 for points
    labels: np.ndarray  # [n] int64; -1 where the data has none
    seeds: np.ndarray  # [n] int64: a sample's own seed, a record's number in its source

    def __len__(self) -> int:  # type: ignore[override]
        return len(self.images)

    @classmethod
    def join(cls, parts: Iterable["Pictures"]) -> "Pictures":
        images, labels, seeds = zip(*parts)
        return cls(np.concatenate(images), np.concatenate(labels), np.concatenate(seeds))

    def rows(self, index: slice | np.ndarray) -> "Pictures":
        return Pictures(self.images[index], self.labels[index], self.seeds[index])


def encode(pictures: Pictures) -> bytes:
    """One Parquet file; the same pictures give the same bytes."""
    images = np.ascontiguousarray(pictures.images)
    width = images[0].nbytes
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(images), [None, pa.py_buffer(images)])
    described = {"shape": ",".join(map(str, images.shape[1:])), "dtype": images.dtype.str}
    field = pa.field("image", column.type, nullable=False, metadata=described)
    schema = pa.schema([field, pa.field("label", pa.int64()), pa.field("seed", pa.int64())])
    table = pa.table([column, pa.array(pictures.labels), pa.array(pictures.seeds)], schema=schema)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def decode(source: bytes | Path) -> Pictures:
    """The pictures of one Parquet file."""
    try:
        table = pq.read_table(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{source if isinstance(source, Path) else 'a shard'} is not readable: {error}") from None
    described = table.schema.field("image").metadata
    shape = tuple(int(side) for side in described[b"shape"].decode().split(","))
    buffer = table["image"].combine_chunks().cast(pa.binary()).to_pylist()
    images = np.frombuffer(b"".join(buffer), dtype=described[b"dtype"].decode()).reshape(-1, *shape)
    return Pictures(images, table["label"].to_numpy(), table["seed"].to_numpy())


def write_pictures(folder: Path, split: str, pictures: Pictures) -> None:
    """split-00000.parquet, ... of `ROWS` rows each."""
    for number, start in enumerate(range(0, len(pictures), ROWS)):
        shard = pictures.rows(slice(start, start + ROWS))
        (folder / f"{split}-{number:05d}.parquet").write_bytes(encode(shard))


def read_pictures(folder: Path, split: str) -> Pictures:
    """All of a split."""
    return Pictures.join(iterate_pictures(folder, split))


def iterate_pictures(folder: Path, split: str) -> Iterator[Pictures]:
    """A split, shard by shard."""
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        raise ArtifactError(f"{folder} holds no {split}-*.parquet")
    return map(decode, files)
