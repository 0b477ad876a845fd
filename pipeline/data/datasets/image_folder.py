"""A folder or zip of image files: a folder per class, EDM's `dataset.json`, or no labels.

Where the first level is `train` and `test` (or the names in the options), those are the splits; else a part of the
images, by a fixed permutation, is held out.
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.data.decode import SUFFIXES, Preprocess, decode_picture, is_picture
from pipeline.data.records import BadRecord, Record
from pipeline.errors import UserError

LABELS = "dataset.json"  # {"labels": [["00000/img00000000.png", 6], ...]} or {"labels": null}
SPLIT_SEED = 20260
MAX_FILE_BYTES = 2**28


@dataclass(frozen=True)
class Source:
    path: str
    labelled: bool = True
    train: str = "train"  # folders of the splits, if there are such
    held_out: str = "test"
    held_out_share: float = 0.1  # where there are none
    preprocess: Preprocess = field(default_factory=Preprocess)

    def __post_init__(self) -> None:
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share: {self.held_out_share} came, a share between 0 and 1 was wanted")

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._labels[0]

    def records(self) -> Iterator[Record]:
        labels, splits = self._labels[1], self._splits
        for name in self._names:
            where = f"{self.path}/{name}"
            decode = partial(_decoded, self._read, name, where, self.preprocess)
            yield Record(decode, labels.get(name), splits[name], where)

    @cached_property
    def _archive(self) -> zipfile.ZipFile | None:
        if Path(self.path).is_dir():
            return None
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{self.path} is neither a folder nor a readable zip: {error}") from None

    @cached_property
    def _names(self) -> list[str]:
        """Of the images: relative paths, sorted."""
        if self._archive is None:
            folder = Path(self.path)
            files = [file for file in folder.rglob("*") if file.is_file()]
            names = [file.relative_to(folder).as_posix() for file in files]
            outside = [file.name for file in files if not file.resolve().is_relative_to(folder.resolve())]
        else:
            names = self._archive.namelist()
            outside = [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
        if outside:
            raise UserError(f"{self.path}: {outside[0]!r} leads out of it: take it out, or do not use these data")
        pictures = sorted(name for name in names if is_picture(PurePosixPath(name)))
        if not pictures:
            raise UserError(f"{self.path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
        return pictures

    @cached_property
    def _has_splits(self) -> bool:
        return {self.train, self.held_out} <= {PurePosixPath(name).parts[0] for name in self._names}

    @cached_property
    def _splits(self) -> dict[str, str]:
        if self._has_splits:
            split_of = {self.train: "train", self.held_out: "held_out"}
            outside = [name for name in self._names if PurePosixPath(name).parts[0] not in split_of]
            if outside:
                raise UserError(f"{self.path}: {outside[0]} is in neither {self.train}/ nor {self.held_out}/: move it")
            return {name: split_of[PurePosixPath(name).parts[0]] for name in self._names}
        order = np.random.default_rng(SPLIT_SEED).permutation(len(self._names))
        held_out = set(order[: max(1, round(self.held_out_share * len(order)))].tolist())
        return {name: "held_out" if i in held_out else "train" for i, name in enumerate(self._names)}

    @cached_property
    def _labels(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """Names of the classes, and the class of each picture by name."""
        if not self.labelled:
            return (), {}
        listed = self._listed_labels()
        if listed is not None:
            classes = max(listed.values(), default=-1) + 1
            return tuple(map(str, range(classes))), listed
        class_of = {name: PurePosixPath(name).parent.parts[int(self._has_splits) :] for name in self._names}
        names = sorted({"/".join(parts) for parts in class_of.values()})
        if "" in names:
            file = next(name for name, parts in class_of.items() if not parts)
            raise UserError(f"{self.path}: {file} is in no class folder, nor is there a {LABELS}: set labelled: false")
        numbers = {name: number for number, name in enumerate(names)}
        return tuple(names), {name: numbers["/".join(parts)] for name, parts in class_of.items()}

    def _listed_labels(self) -> dict[str, int] | None:
        try:
            content = self._read(LABELS)
        except (KeyError, OSError):
            return None
        try:
            labels = json.loads(content)["labels"]
            return None if labels is None else {str(name): int(label) for name, label in labels}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{self.path}/{LABELS} has no list of [name, label] under `labels`: {error}") from None

    def _read(self, name: str) -> bytes:
        archive = self._archive
        size = (Path(self.path) / name).stat().st_size if archive is None else archive.getinfo(name).file_size
        if size > MAX_FILE_BYTES:
            raise BadRecord(f"{self.path}/{name} has {size} bytes, more than the {MAX_FILE_BYTES} allowed")
        return (Path(self.path) / name).read_bytes() if archive is None else archive.read(name)


def _decoded(read: Callable[[str], bytes], name: str, where: str, preprocess: Preprocess) -> np.ndarray:
    return decode_picture(read(name), where, preprocess)
