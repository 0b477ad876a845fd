"""Class labels beside pictures or features: column `label` of Parquet or Arrow, array `labels` of `.npz`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.metrics.standalone.image_files import load_array, read_table, table_files

COLUMN, ARRAY = "label", "labels"


class Label(NamedTuple):
    value: int  # negative: no label
    where: str  # file and row, for messages


def read_labels(source: Path) -> list[Label] | None:
    """One per sample, in the order of the samples; None if the source has no integer labels."""
    labels: list[Label] = []
    for file in table_files(source) or [source]:
        column = _column(file) if table_files(source) else _array(source)
        if column is None:
            return None
        labels += [Label(value, f"{file} row {row}") for row, value in enumerate(column.tolist())]
    return labels


def known_classes(source: Path, n: int) -> np.ndarray | None:
    """[n] int64; None if a sample has no label."""
    labels = read_labels(source)
    if labels is None or any(label.value < 0 for label in labels):
        return None
    if len(labels) != n:
        raise UserError(f"{source}: {len(labels)} labels for {n} samples: pass one label per sample")
    return np.array([label.value for label in labels], np.int64)


def _column(file: Path) -> np.ndarray | None:
    table = read_table(file)
    if COLUMN not in table.column_names or not pa.types.is_integer(table[COLUMN].type):
        return None
    return table[COLUMN].cast(pa.int64()).fill_null(-1).to_numpy()


def _array(source: Path) -> np.ndarray | None:
    if source.suffix != ".npz" or not source.is_file():
        return None
    labels = load_array(source, ARRAY).get(ARRAY)
    return labels if labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu" else None
