"""Parquet and Arrow files with an `image` column, read in batches."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.data.shards import open_table
from pipeline.errors import ArtifactError, UserError

SUFFIXES = frozenset({".parquet", ".arrow"})
IMAGE, LABEL, SEED = "image", "label", "seed"


def table_files(source: Path) -> list[Path]:
    """The Parquet or Arrow files of a folder, of one split (FOLDER/SPLIT), or the file itself; else none."""
    if source.suffix in SUFFIXES:
        return [source] if source.is_file() else []
    folder, name = (source, "*") if source.is_dir() else (source.parent, f"{source.name}-*")
    return sorted(file for suffix in SUFFIXES for file in folder.glob(name + suffix))


def splits_of(source: Path) -> list[str]:
    """Names of a folder's Parquet or Arrow files, up to their last dash; `data` has no splits."""
    names = {file.stem.partition("-of-")[0].rpartition("-")[0] for file in table_files(source)}
    return sorted(names - {""}) if source.is_dir() else []


def read_batches(file: Path, *columns: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The schema of the whole file, and batches of these columns. UserError if it has no column `image`."""
    try:
        schema, batches = open_table(file, columns)
    except ArtifactError as error:
        raise UserError(str(error)) from None
    if IMAGE not in schema.names:
        raise UserError(f"{file} has no column `image`, but {', '.join(schema.names)}: rename the column of pictures")
    return schema, batches


def fixed_shape(schema: pa.Schema) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and type of a row in a shard of this project; None for encoded pictures."""
    column = schema.field(IMAGE)
    metadata = column.metadata or {}
    if b"shape" not in metadata or not pa.types.is_fixed_size_binary(column.type):
        return None
    return tuple(map(int, metadata[b"shape"].decode().split(","))), np.dtype(metadata[b"dtype"].decode())
