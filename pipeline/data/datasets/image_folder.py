"""A folder or zip of image files: a folder per class, EDM's `dataset.json`, or no labels.

A single folder around everything is passed over. Where the first level then is `train` and one of `test`, `val` and
`validation` (or the names in the options), those are the splits; else a part of the images is held out.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from methods.core.numbers import Share
from pipeline.data.decode import SUFFIXES, EncodedPicture, Preprocess
from pipeline.data.picture_files import HELD_OUT_NAMES, SPLIT_NAMES, PictureFiles
from pipeline.data.records import Record
from pipeline.errors import UserError

LABELS = "dataset.json"  # {"labels": [["00000/img00000000.png", 6], ...]} or {"labels": null}
SHARD, SHARD_FILE = re.compile(r"\d{5,}"), re.compile(r"img\d{8}\..*")  # of EDM's dataset_tool: numbers, not classes


@dataclass(frozen=True)
class Source:
    path: str
    labelled: bool | None = None  # whether to read labels; null: as the files show
    train: str = "train"  # folders of the splits, if there are such
    held_out: str | None = None  # null: test, val or validation, whichever there is
    held_out_share: Share = 0.1  # where there are none
    preprocess: Preprocess = field(default_factory=Preprocess)

    def __post_init__(self) -> None:
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share: {self.held_out_share} came, a share between 0 and 1 was wanted")

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._labels[0]

    @property
    def left_out(self) -> list[str]:
        used = {f"{self._base}{LABELS}"} if self.labelled is not False else set[str]()
        unused = sorted({*self._files.names} - {*self._splits})
        pictures = [f"pictures of other splits: {len(unused)}, such as {unused[0]}"] if unused else []
        return [*pictures, *self._files.left_out(used)]

    def records(self) -> Iterator[Record]:
        labels = self._labels[1]
        for name, split in self._splits.items():
            where = f"{self.path}/{name}"
            picture = EncodedPicture(partial(self._files.read, name), where, self.preprocess)
            yield Record(picture, labels.get(name), split, where)

    @cached_property
    def _files(self) -> PictureFiles:
        files = PictureFiles(Path(self.path))
        if not files.names:
            raise UserError(f"{self.path} holds no pictures ({', '.join(sorted(SUFFIXES))}): set another path")
        return files

    @cached_property
    def _base(self) -> str:
        """The folder around everything with a slash, or nothing; a folder that holds pictures itself is a class."""
        parents = [PurePosixPath(name).parts[:-1] for name in self._files.names]
        shared = [one for one, other in takewhile(lambda pair: pair[0] == pair[1], zip(min(parents), max(parents)))]
        while shared and tuple(shared) in parents and shared[-1] != self.train:
            shared.pop()
        return "".join(f"{part}/" for part in shared)

    def _below(self, name: str) -> tuple[str, ...]:
        """Parts of a picture's path below the base."""
        return PurePosixPath(name.removeprefix(self._base)).parts

    @cached_property
    def _split_folders(self) -> Mapping[str, str]:
        """Folder to split; empty if the source is not divided."""
        tops = {parts[0] for name in self._files.names if len(parts := self._below(name)) > 1}
        known = ", ".join(f"{top}/" for top in sorted(tops)[:8])
        candidates = [name for name in HELD_OUT_NAMES if name in tops] if self.held_out is None else [self.held_out]
        if self.train in tops and len(candidates) > 1:
            names = " or ".join(candidates)
            raise UserError(f"{self.path} has {known}: set options.held_out to {names}; the other is left out")
        if self.train in tops and candidates and candidates[0] in tops:
            others = sorted(tops - {self.train, candidates[0]} - SPLIT_NAMES)
            if others:
                raise UserError(f"{self.path}: {others[0]}/ is in neither {self.train}/ nor {candidates[0]}/: move it")
            return {self.train: "train", candidates[0]: "held_out"}
        if self.held_out is not None or any(top.lower() in SPLIT_NAMES for top in tops):
            wanted = f"{self.train}/ and {self.held_out or ' or '.join(HELD_OUT_NAMES)}/"
            raise UserError(f"{self.path} has {known}, not {wanted}: set options.train and options.held_out")
        return {}

    @cached_property
    def _splits(self) -> dict[str, str]:
        """The split of each picture that is used, by name."""
        folders = self._split_folders
        if not folders:
            return dict.fromkeys(self._files.names, "")
        of_name = {name: self._below(name) for name in self._files.names}
        loose = next((name for name, parts in of_name.items() if len(parts) == 1), None)
        if loose is not None:
            raise UserError(f"{self.path}: {loose} is in neither {' nor '.join(f'{top}/' for top in folders)}: move it")
        return {name: folders[parts[0]] for name, parts in of_name.items() if parts[0] in folders}

    @cached_property
    def _labels(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """Names of the classes, and the class of each picture by name."""
        if self.labelled is False:
            return (), {}
        is_listed, listed = self._listed_labels()
        if is_listed:
            classes = 0 if listed is None else max(listed.values()) + 1
            return tuple(map(str, range(classes))), listed or {}
        class_of = {name: self._below(name)[bool(self._split_folders) : -1] for name in self._splits}
        names = sorted({"/".join(parts) for parts in class_of.values()})
        if "" in names:
            file = next(name for name, parts in class_of.items() if not parts)
            raise UserError(f"{self.path}: {file} is in no class folder, nor is there a {LABELS}: set labelled: false")
        if self.labelled is None and all(SHARD.fullmatch(name) for name in names):
            if all(SHARD_FILE.fullmatch(PurePosixPath(name).name) for name in class_of):
                return (), {}
            raise UserError(
                f"{self.path}: are folders such as {names[0]}/ classes, or numbered parts of one set? "
                "Set options.labelled to true or to false"
            )
        numbers = {name: number for number, name in enumerate(names)}
        return tuple(names), {name: numbers["/".join(parts)] for name, parts in class_of.items()}

    def _listed_labels(self) -> tuple[bool, dict[str, int] | None]:
        """Whether there is a `dataset.json`, and its labels by name; None: it says that there are none."""
        file = f"{self._base}{LABELS}"
        where = f"{self.path}/{file}"
        if not self._files.has(file):
            for other in self._files.named(LABELS):
                wanted = f"in the folder around all pictures ({self.path}/{self._base})"
                raise UserError(f"{self.path}/{other}: a {LABELS} was wanted {wanted}: move it, or set labelled: false")
            return False, None
        try:
            labels = json.loads(self._files.read(file))["labels"]
            pairs = None if labels is None else [(f"{self._base}{name}", label) for name, label in labels]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{where} has no list of [name, label] under `labels`: {error}") from None
        if pairs is None and self.labelled:
            raise UserError(f"{where} says that there are no labels (null), but options.labelled is true: set it false")
        return True, None if pairs is None else self._checked(pairs, where)

    def _checked(self, pairs: list[tuple[str, Any]], where: str) -> dict[str, int]:
        """Whole numbers from 0 without a gap, for pictures that are there."""
        for name, label in pairs:
            if isinstance(label, bool) or not isinstance(label, int | float) or label != label // 1 or label < 0:
                raise UserError(f"{where}: label {label!r} of {name}: whole numbers 0, 1, ... were wanted")
        labels = {name: int(label) for name, label in pairs}
        twice = next((name for name, label in pairs if label != labels[name]), None)
        if twice is not None:
            raise UserError(f"{where}: {twice} is listed with two labels: correct it")
        absent = [name for name in labels if not self._files.has(name)]
        if absent:
            raise UserError(
                f"{where} lists pictures that are not there ({len(absent)}, such as {absent[0]}): fetch them, or take "
                "them out of the list"
            )
        classes = sorted({*labels.values()})
        gap = next((i for i, label in enumerate(classes) if i != label), None)
        if gap is not None or not classes:
            seen = f"labels are {classes[0]} to {classes[-1]}" if classes else "the list is empty"
            raise UserError(f"{where}: no picture has label {gap or 0} ({seen}): number the classes 0, 1, ...")
        return labels
