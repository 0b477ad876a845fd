"""Class labels beside pictures or features: column `label` of Parquet or Arrow, array `labels` of `.npz`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.metrics.standalone.intake import Intake
from pipeline.metrics.standalone.numpy_files import array_headers, load_array
from pipeline.metrics.standalone.table_files import LABEL, read_batches, table_files

COLUMN, ARRAY = LABEL, "labels"


class Label(NamedTuple):
    value: int  # negative: no label
    where: str  # file and row, for messages


def read_labels(source: Path, intake: Intake | None = None) -> list[Label] | None:
    """One per sample, in the order of the samples; None if the source has no integer labels."""
    labels: list[Label] = []
    for file in table_files(source) or [source]:
        column = _column(file) if table_files(source) else _array(source)
        if isinstance(column, str):
            if intake is not None:
                intake.left_out.append(f"labels: {column}, one whole number for each sample was wanted")
            return None
        if column is None:
            return None
        labels += [Label(value, f"{file} row {row}") for row, value in enumerate(column.tolist())]
    return labels


def known_classes(source: Path, n: int, intake: Intake) -> np.ndarray | None:
    """[n] int64; None if a sample has no label."""
    labels = read_labels(source, intake)
    if labels is None:
        return None
    if len(labels) != n:
        raise UserError(f"{source}: {len(labels)} labels for {n} samples: pass one label per sample")
    missing = [label.where for label in labels if label.value < 0]
    if missing:
        if len(missing) < n:
            intake.left_out.append(f"labels: {len(missing)} samples have none, the first is {missing[0]}")
        return None
    return np.array([label.value for label in labels], np.int64)


def check_classes(labels: np.ndarray, classes: int, source: Path, intake: Intake) -> None:
    """UserError for a label beyond the classes that were learned; a warning if the first class is missing."""
    beyond = np.flatnonzero(labels >= classes)
    if len(beyond):
        raise UserError(
            f"{source}: sample {beyond[0]} has label {labels[beyond[0]]}, but there are {classes} classes, 0 to "
            f"{classes - 1}: number them as those that the network learned"
        )
    if not (labels == 0).any():
        intake.notes.append("no sample has label 0: are the labels counted from 1? accuracy compares them as they are")


def _column(file: Path) -> np.ndarray | str | None:
    """Values, -1 for none; or the type of a column that is not integers."""
    schema, batches = read_batches(file, COLUMN)
    if COLUMN not in schema.names:
        return None
    if not pa.types.is_integer(schema.field(COLUMN).type):
        return f"column `{COLUMN}` is {schema.field(COLUMN).type}"
    columns = [batch[COLUMN].cast(pa.int64()).fill_null(-1).to_numpy() for batch in batches]
    return np.concatenate(columns) if columns else np.empty(0, np.int64)


def _array(source: Path) -> np.ndarray | str | None:
    if source.suffix != ".npz" or not source.is_file() or (header := array_headers(source).get(ARRAY)) is None:
        return None
    if len(header.shape) != 1 or header.dtype.kind not in "iu":
        return f"array `{ARRAY}` is {'objects' if header.dtype.hasobject else header.dtype} {header.shape}"
    return load_array(source, ARRAY)[ARRAY]
