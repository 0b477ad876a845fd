"""Labels of lists, columns and folders: the right number for each picture, or one line before anything is written."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.datasets.image_folder import Source
from pipeline.data.shards import read_pictures
from pipeline.errors import TrilemmaError, UserError
from tests.pipeline.data.test_datasets import prepare
from tests.pipeline.data.test_layouts import ABC, SHARDS, facts_of, table, zip_of
from tests.pipeline.data.test_pixels import channels_first, picture


def listed(names: Sequence[str], labels: Sequence[object]) -> dict[str, str]:
    return {"dataset.json": json.dumps({"labels": [list(pair) for pair in zip(names, labels)]})}


def test_labels_of_a_list_are_those_of_the_pictures(tmp_path: Path) -> None:
    names = [f"faces/{name}" for name in SHARDS]
    labels = {f"faces/{k}": v for k, v in listed(SHARDS, [i % 3 for i in range(12)]).items()}
    made = prepare("image_folder", zip_of(tmp_path / "a.zip", names, labels), tmp_path / "out")
    parts = [read_pictures(made.path, split) for split in ("train", "held_out")]
    found = {image.tobytes(): label for part in parts for image, label in zip(part.images, part.labels.tolist())}
    assert found == {channels_first(picture(i)).tobytes(): i % 3 for i in range(12)}


LABELS: dict[str, tuple[Sequence[object], str]] = {
    "fractions": ([0.5, 1.5, 2.5] * 4, r"label 0\.5 of 00000/img00000000\.png: whole numbers 0, 1, \.\.\. were wanted"),
    "one-based": ([1 + i % 3 for i in range(12)], r"no picture has label 0 \(labels are 1 to 3\)"),
    "a gap": ([2 * (i % 2) for i in range(12)], r"no picture has label 1 \(labels are 0 to 2\)"),
    "ids": ([5_000_000 + i for i in range(12)], r"no picture has label 0 \(labels are 5000000 to 5000011\)"),
    "words": (["cat", "dog"] * 6, "label 'cat' of .*: whole numbers"),
    "lists": ([[0, 1]] * 12, r"label \[0, 1\] of .*: whole numbers"),
    "truth values": ([True, False] * 6, "label True of .*: whole numbers"),
    "none": ([None] * 12, "label None of .*: whole numbers"),
    "below": ([-1, 0] * 6, "label -1 of .*: whole numbers"),
    "not a number": ([float("nan")] * 12, "label nan of .*: whole numbers"),
    "infinite": ([float("inf")] * 12, "label inf of .*: whole numbers"),
}


@pytest.mark.parametrize("what", LABELS)
def test_a_list_whose_labels_cannot_be_used_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    labels, message = LABELS[what]
    with pytest.raises(TrilemmaError, match=message):
        prepare("image_folder", zip_of(tmp_path / "a.zip", SHARDS, listed(SHARDS, labels)), tmp_path / "out")


def test_a_list_that_does_not_fit_the_pictures_is_refused(tmp_path: Path) -> None:
    for number, (labels, message) in enumerate(
        [
            (
                listed([*SHARDS, "00009/a.png"], [0] * 13),
                r"lists pictures that are not there \(1, such as 00009/a\.png\)",
            ),
            (listed(SHARDS[:-1], [0] * 11), r"img00000011\.png: label None, but there are 1 classes"),
            (listed([*SHARDS, SHARDS[0]], [0] * 12 + [1]), "is listed with two labels"),
            ({"dataset.json": '{"labels": [1, 2]}'}, r"has no list of \[name, label\]"),
            ({"dataset.json": "[" * 100_000}, r"has no list of \[name, label\]"),
        ]
    ):
        file = zip_of(tmp_path / f"{number}.zip", SHARDS, labels)
        with pytest.raises(TrilemmaError, match=message):
            prepare("image_folder", file, tmp_path / "out")


def test_floats_that_are_whole_numbers_are_labels(tmp_path: Path) -> None:
    file = zip_of(tmp_path / "a.zip", SHARDS, listed(SHARDS, [0.0, 1.0, 2.0] * 4))
    assert prepare("image_folder", file, tmp_path / "out").manifest.facts["classes"] == 3


COLUMNS: dict[str, Callable[[], Sequence[object] | pa.Array]] = {
    "strings": lambda: ["abc"[i % 3] for i in range(12)],
    "categories": lambda: pa.array(["abc"[i % 3] for i in range(12)]).dictionary_encode(),
    "whole floats": lambda: [float(i % 3) for i in range(12)],
    "small integers": lambda: pa.array([i % 3 for i in range(12)], pa.uint8()),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_labels_of_a_column_become_numbers_of_the_names(kind: str, tmp_path: Path) -> None:
    for split, first in (("train", 0), ("test", 12)):
        table(tmp_path / "pics" / f"{split}-00000-of-00001.parquet", first, COLUMNS[kind]())
    made = prepare("parquet", tmp_path / "pics", tmp_path / "out", names=ABC)
    assert facts_of(made) == (ABC, [[4, 4, 4], [4, 4, 4]])
    parts = [read_pictures(made.path, split) for split in ("train", "held_out")]
    found = {image.tobytes(): label for part in parts for image, label in zip(part.images, part.labels.tolist())}
    assert found == {channels_first(picture(i)).tobytes(): i % 3 for i in range(24)}


BAD_COLUMNS: dict[str, tuple[Sequence[object], str]] = {
    "an unknown name": (["a", "b", "d"] * 4, r"row 2: label 'd', but there are 3 classes"),
    "fractions": ([0.0, 1.5, 2.0] * 4, r"row 1: label 1\.5, but"),
    "lists": ([[0], [1], [2]] * 4, r"row 0: label \[0\], but"),
    "one-based": ([1, 2, 3] * 4, "row 2: label 3, but there are 3 classes, 0 to 2"),
    "an empty class": ([0, 1] * 6, r"no training picture has label 2 \(c\), 1 such classes of 3"),
    "ids": ([10**6 + i for i in range(12)], "label 1000000, but"),
    "none": ([None, 0] * 6, "row 0: label None, but"),
    "not a number": ([float("nan")] * 12, "row 0: label nan, but"),
}


@pytest.mark.parametrize("what", BAD_COLUMNS)
def test_a_column_that_cannot_be_used_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    labels, message = BAD_COLUMNS[what]
    for split, first in (("train", 0), ("test", 12)):
        table(tmp_path / "pics" / f"{split}.parquet", first, labels)
    with pytest.raises(TrilemmaError, match=message):
        prepare("parquet", tmp_path / "pics", tmp_path / "out", names=ABC)


PARTS = ["train", "val", "test", "a", "b", "00000", "00001", "..a", "é", "x y", "Train", "img00000001"]
FILES = ["img00000000.png", "1.png", "2.JPG", "notes.txt", ".hidden.png", "3", "4.jfif"]
VALUES: list[Any] = [0, 1, 2, 5, -1, 0.5, 1.0, 10**7, True, None, "a", [0], {}, float("nan"), float("inf"), 10**400]


def test_any_layout_with_any_list_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rng, refused = np.random.default_rng(0), list[str]()
    for number in range(200):
        names = sorted({"/".join([*rng.choice(PARTS, rng.integers(0, 4)), rng.choice(FILES)]) for _ in range(6)})
        chosen = [VALUES[i] for i in rng.integers(0, rng.choice([2, 3, len(VALUES)]), len(names))]
        lists: list[Any] = [[list(pair) for pair in zip(names, chosen)], None, chosen, {"a": 1}]
        is_listed, labelled = rng.integers(3) == 0, [None, True, False][rng.integers(3)]
        extra = {"dataset.json": json.dumps({"labels": lists[rng.integers(4)]})} if is_listed else {}
        source = Source(str(zip_of(tmp_path / f"{number}.zip", names, extra)), labelled)
        try:
            records, classes = list(source.records()), len(source.label_names)
        except UserError as error:
            refused.append(str(error))
            continue
        assert {record.split for record in records} in ({""}, {"train", "held_out"})
        assert all(record.label is None or record.label in range(classes) for record in records)
        left_out = sum(int(re.findall(r": (\d+)[ ,]", line)[0]) for line in source.left_out)
        assert len(records) + left_out == len(names) + (is_listed and labelled is False)
    assert 20 < len(refused) < 180
    assert all(line.isprintable() and line.startswith(str(tmp_path)) for line in refused)
