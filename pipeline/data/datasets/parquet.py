"""Encoded images in Parquet, as datasets are published: `image` as bytes or struct<bytes, path>, `label` as an integer.

Files of a split are those whose names begin with it: train-00000-of-00003.parquet, test.parquet.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.decode import Preprocess, decode_picture, encoded_bytes
from pipeline.data.records import Record
from pipeline.errors import UserError

ROWS_PER_READ = 1024


@dataclass(frozen=True)
class Source:
    path: str
    names: list[str] = field(default_factory=list)  # of the classes; none: unlabelled
    train: str = "train"  # what the names of a split's files begin with
    held_out: str = "test"
    image: str = "image"  # columns
    label: str = "label"
    limit: int | None = None  # the first so many images of each split; None: all
    preprocess: Preprocess = field(default_factory=Preprocess)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: {self.limit} came, at least 1 or null was wanted")

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.names)

    def records(self) -> Iterator[Record]:
        for split, prefix in (("train", self.train), ("held_out", self.held_out)):
            files = sorted(Path(self.path).rglob(f"{prefix}*.parquet"))
            if not files:
                raise UserError(f"{self.path} holds no {prefix}*.parquet: set options.{split}")
            yield from islice(chain.from_iterable(self._of_file(file, split) for file in files), self.limit)

    def _of_file(self, file: Path, split: str) -> Iterator[Record]:
        columns = [self.image, *([self.label] if self.names else [])]
        try:
            parquet = pq.ParquetFile(file)
            missing = [name for name in columns if name not in parquet.schema_arrow.names]
            if missing:
                known = ", ".join(parquet.schema_arrow.names)
                raise UserError(f"{file} has no column {', '.join(missing)}, but {known}: set options.image or .label")
            row = 0
            for batch in parquet.iter_batches(ROWS_PER_READ, columns=columns):
                labels = batch[self.label].to_pylist() if self.names else [None] * len(batch)
                for cell, label in zip(batch[self.image], labels):
                    where = f"{file} row {row}"
                    yield Record(partial(_decoded, cell, where, self.preprocess), label, split, where)
                    row += 1
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{file} is not readable as Parquet: {error}") from None


def _decoded(cell: pa.Scalar, where: str, preprocess: Preprocess) -> np.ndarray:
    return decode_picture(encoded_bytes(cell, where), where, preprocess)
