"""Encoded images in Parquet, as datasets are published: `image` as bytes or struct<bytes, path>, `label` as an integer
or as a class's name.

Files of a split are named after it, with or without a number: train-00000-of-00003.parquet, test.parquet.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from methods.core.numbers import Count
from pipeline.data.decode import EncodedPicture, Preprocess, encoded_bytes
from pipeline.data.foreign_files import head_of, wrong_file
from pipeline.data.picture_files import files_below
from pipeline.data.records import Record
from pipeline.errors import UserError

ROWS_PER_READ = 1024
SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class Source:
    path: str
    names: list[str] = field(default_factory=list)  # of the classes; none: unlabelled
    train: str = "train"  # names of a split's files, before their number
    held_out: str = "test"
    image: str = "image"  # columns
    label: str = "label"
    limit: Count | None = None  # so many images of each split, drawn by their content; null: all
    preprocess: Preprocess = field(default_factory=Preprocess)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: {self.limit} came, at least 1 or null was wanted")
        if len({*self.names}) < len(self.names):
            raise ValueError(f"names: {self.names} came, a different name for each class was wanted")

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.names)

    @property
    def left_out(self) -> list[str]:
        used = {file for files in self._files.values() for file in files}
        others = [name for name in self._all if Path(self.path, name) not in used]
        files = [f"files of no split: {len(others)}, such as {others[0]}"] if others else []
        schema = self._open(self._files["train"][0]).schema_arrow
        columns = sorted({*schema.names} - {self.image, self.label if self.names else ""})
        labels = "; set options.names to use labels" if self.label in columns else ""
        return files + ([f"columns {', '.join(columns)}{labels}"] if columns else [])

    def records(self) -> Iterator[Record]:
        for split, files in self._files.items():
            for file in files:
                yield from self._of_file(file, split)

    @cached_property
    def _all(self) -> list[str]:
        return sorted(files_below(Path(self.path)))

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """Of each split."""
        found = {split: self._of_split(getattr(self, split)) for split in SPLITS}
        for split, files in found.items():
            if not files:
                known = ", ".join(sorted({PurePosixPath(name).name for name in self._all})[:8]) or "nothing"
                raise UserError(
                    f"{self.path} holds no {getattr(self, split)}*.parquet, but {known}: set options.{split}"
                )
        return found

    def _of_split(self, name: str) -> list[Path]:
        """`train_extra-0.parquet` is not of `train`."""
        pattern = re.compile(rf"{re.escape(name)}([-_.]?\d.*)?\.parquet")
        return [Path(self.path, file) for file in self._all if pattern.fullmatch(PurePosixPath(file).name)]

    def _of_file(self, file: Path, split: str) -> Iterator[Record]:
        columns = [self.image, *([self.label] if self.names else [])]
        parquet = self._open(file)
        missing = [name for name in columns if name not in parquet.schema_arrow.names]
        if missing:
            known = ", ".join(parquet.schema_arrow.names)
            raise UserError(f"{file} has no column {', '.join(missing)}, but {known}: set options.image or .label")
        row = 0
        try:
            for batch in parquet.iter_batches(ROWS_PER_READ, columns=columns):
                labels = batch[self.label].to_pylist() if self.names else [None] * len(batch)
                for cell, label in zip(batch[self.image], labels):
                    where = f"{file} row {row}"
                    picture = EncodedPicture(partial(encoded_bytes, cell, where), where, self.preprocess)
                    yield Record(picture, self._number(label), split, where)
                    row += 1
        except (pa.ArrowException, OSError) as error:
            raise _not_readable(file, error) from None

    def _open(self, file: Path) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise _not_readable(file, error) from None

    def _number(self, label: Any) -> Any:
        """Names by their place in `names`, whole floats and truth values as integers; others as they are."""
        if isinstance(label, str):
            return self._numbers.get(label, label)
        return int(label) if isinstance(label, bool | float) and label == label // 1 else label

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}


def _not_readable(file: Path, error: Exception) -> UserError:
    reason = wrong_file(head_of(file)) or " ".join(str(error).split())
    return UserError(f"{file} is not readable as Parquet: {reason}")
