"""Which pictures are read, with which label, in which split: layouts of folders, zips and Parquet, and what is left."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dag.data_summary import data_summary
from pipeline.data.artifacts import Artifact
from pipeline.data.shards import read_pictures
from pipeline.errors import TrilemmaError
from tests.pipeline.data.test_datasets import prepare
from tests.pipeline.data.test_pixels import channels_first, encoded, picture


def folder_of(root: Path, names: Sequence[str], **more: Any) -> Path:
    """A picture for each name; more: text files."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(picture(i)))
    for name, content in more.items():
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


def zip_of(file: Path, names: Sequence[str], extra: Mapping[str, str] | None = None) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, encoded(picture(i)))
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return file


def table(file: Path, first: int, labels: Sequence[object] | pa.Array, **columns: Sequence[object]) -> Path:
    cells = [{"bytes": encoded(picture(first + i)), "path": f"{i}.png"} for i in range(len(labels))]
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": cells, "label": labels, **columns}), file)
    return file


def each(*patterns: str, count: int = 4) -> list[str]:
    return [pattern.format(i) for pattern in patterns for i in range(count)]


def facts_of(made: Artifact) -> tuple[list[str], list[list[int]]]:
    facts = made.manifest.facts
    return facts["label_names"], [facts["class_counts"]["train"], facts["class_counts"]["held_out"]]


SPLIT = ["train/a/{}.png", "train/b/{}.png", "{split}/a/{}.png", "{split}/b/{}.png"]
ABC = ["a", "b", "c"]
SHARDS = [f"{i // 4:05d}/img{i:08d}.png" for i in range(12)]


def divided(split: str, inside: str = "") -> list[str]:
    return each(*(inside + pattern.replace("{split}", split) for pattern in SPLIT))


@pytest.mark.parametrize("split", ["val", "test", "validation"])
@pytest.mark.parametrize("inside", ["", "around/everything/"])
def test_folders_of_splits_are_recognised_below_one_folder_around_everything(
    split: str, inside: str, tmp_path: Path
) -> None:
    for number, path in enumerate(
        (folder_of(tmp_path / "pics", divided(split, inside)), zip_of(tmp_path / "pics.zip", divided(split, inside)))
    ):
        made = prepare("image_folder", path, tmp_path / str(number) / "out")
        assert facts_of(made) == (["a", "b"], [[4, 4], [4, 4]])
        held_out = {image.tobytes() for image in read_pictures(made.path, "held_out").images}
        assert held_out == {channels_first(picture(i)).tobytes() for i in range(8, 16)}


def test_one_folder_around_classes_is_no_class(tmp_path: Path) -> None:
    made = prepare("image_folder", folder_of(tmp_path / "pics", each("set/a/{}.png", "set/b/{}.png")), tmp_path / "out")
    assert made.manifest.facts["label_names"] == ["a", "b"]
    made = prepare(
        "image_folder", folder_of(tmp_path / "one", each("train/a/{}.png", "train/b/{}.png")), tmp_path / "1"
    )
    assert made.manifest.facts["label_names"] == ["a", "b"]
    made = prepare("image_folder", folder_of(tmp_path / "cats", each("cat/{}.png")), tmp_path / "2")
    assert made.manifest.facts["label_names"] == ["cat"]


REFUSED: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "two held-out splits": (divided("val") + each("test/a/{}.png"), {}, "set options.held_out to test or val"),
    "another name of a split": (divided("dev"), {}, "set options.train and options.held_out"),
    "another case": ([name.replace("train", "Train") for name in divided("test")], {}, "set options.train and"),
    "a folder beside": (divided("val") + each("more/a/{}.png"), {}, "more/ is in neither train/ nor val/"),
    "a picture beside": ([*divided("val"), "1.png"], {}, r"1\.png is in neither train/ nor val/"),
    "a split that is not there": (divided("test"), {"held_out": "val"}, "not train/ and val/: set options"),
    "numbered folders": (each("00000/{:05d}.png", "01000/{:05d}.png"), {}, "options.labelled to true or to false"),
    "no class folders": (each("{}.png"), {}, "is in no class folder, nor is there a dataset.json: set labelled"),
    "a list in another place": ([*divided("test"), "train/dataset.json"], {}, r"train/dataset\.json: a dataset\.json"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_layout_that_is_not_clear_is_refused_with_the_option_that_says_it(what: str, tmp_path: Path) -> None:
    names, options, message = REFUSED[what]
    with pytest.raises(TrilemmaError, match=message):
        prepare("image_folder", folder_of(tmp_path / "pics", names), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_split_that_no_option_names_is_left_out_and_named(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "pics", divided("val") + each("test/a/{}.png"))
    made = prepare("image_folder", data, tmp_path / "out", held_out="val")
    assert facts_of(made) == (["a", "b"], [[4, 4], [4, 4]])
    assert made.manifest.facts["left_out"] == ["pictures of other splits: 4, such as test/a/0.png"]


@pytest.mark.parametrize("extra", [{}, {"dataset.json": '{"labels": null}'}])
@pytest.mark.parametrize("inside", ["", "faces/"])
def test_numbered_folders_of_edms_tool_are_no_classes(extra: dict[str, str], inside: str, tmp_path: Path) -> None:
    names, extra = [inside + name for name in SHARDS], {inside + name: text for name, text in extra.items()}
    made = prepare("image_folder", zip_of(tmp_path / "faces.zip", names, extra), tmp_path / "out")
    assert (made.manifest.facts["classes"], made.manifest.facts["left_out"]) == (0, [])
    with_them = prepare("image_folder", zip_of(tmp_path / "b.zip", names), tmp_path / "b" / "out", labelled=True)
    assert with_them.manifest.facts["label_names"] == ["00000", "00001", "00002"]


def test_the_name_of_a_split_inside_a_longer_name_is_another_split(tmp_path: Path) -> None:
    for name, first in (("train", 0), ("train_extra", 0), ("test", 100)):
        table(
            tmp_path / "pics" / f"{name}-00000-of-00001.parquet", first, [i % 3 for i in range(12)], source=["x"] * 12
        )
    made = prepare("parquet", tmp_path / "pics", tmp_path / "out", names=ABC)
    assert (made.manifest.facts["train"], made.manifest.facts["held_out"]) == (12, 12)
    assert made.manifest.facts["duplicates"] == {"train": 0, "across": 0}
    assert made.manifest.facts["left_out"] == [
        "files of no split: 1, such as train_extra-00000-of-00001.parquet",
        "columns source",
    ]
    with pytest.raises(TrilemmaError, match=r"no val\*\.parquet, but .*train_extra.*: set options\.held_out"):
        prepare("parquet", tmp_path / "pics", tmp_path / "b", names=ABC, held_out="val")


def test_a_column_of_labels_that_is_not_used_is_named(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("test", 12)):
        table(tmp_path / "pics" / f"{split}.parquet", first, [0] * 12)
    made = prepare("parquet", tmp_path / "pics", tmp_path / "out")
    assert made.manifest.facts["left_out"] == ["columns label; set options.names to use labels"]


def test_links_and_suffixes_do_not_hide_pictures(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "pics", [*each("cat/{}.png"), "cat/9.jfif", "cat/8.JPE"])
    folder_of(tmp_path / "other-disk", each("dog/{}.png"))
    (data / "notes.txt").write_text("no picture")
    (data / "cat" / "5.heic").write_bytes(b"x")
    (data / ".DS_Store").write_bytes(b"x")
    made = prepare("image_folder", data, tmp_path / "out")
    assert made.manifest.facts["class_counts"] == {"train": [5], "held_out": [1]}
    assert made.manifest.facts["left_out"] == [
        "files that are no pictures by their names: 3 (1 .heic, 1 .txt, 1 hidden), such as .DS_Store"
    ]
    (data / "dog").symlink_to("../other-disk/dog")
    with pytest.raises(TrilemmaError, match=r"pics/dog is a link to a folder: move \.\./other-disk/dog here"):
        prepare("image_folder", data, tmp_path / "b")
    (data / "dog").unlink()
    (data / "cat" / "7.png").symlink_to("gone.png")
    with pytest.raises(TrilemmaError, match=r"7\.png is a link to gone\.png, which does not exist"):
        prepare("image_folder", data, tmp_path / "b")


def test_archives_that_cannot_be_read_as_they_are_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.foreign_files.MAX_UNPACKED_BYTES", 2**20)
    link = zipfile.ZipInfo("a/1.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "../../etc/passwd")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", encoded(picture(0)))
        archive.writestr("notes.txt", bytes(2**21))
    content = bytearray(zip_of(tmp_path / "locked.zip", ["a/1.png"]).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    (tmp_path / "pointer.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    (tmp_path / "page.zip").write_bytes(b"<!DOCTYPE html><html></html>")
    for name, message in {
        "link": "'a/1.png' leads out of it",
        "bomb": r"has \d+ bytes, but \d+ unpacked, more than 100 times as many",
        "locked": r"a/1\.png is encrypted: unpack it first",
        "pointer": "this is a Git LFS pointer: fetch the file itself",
        "page": "this is a web page: fetch the file itself",
    }.items():
        with pytest.raises(TrilemmaError, match=message):
            prepare("image_folder", tmp_path / f"{name}.zip", tmp_path / "out")


def test_entries_of_one_name_are_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        file = zip_of(tmp_path / "a.zip", [*each("a/{}.png", "b/{}.png"), "a/1.png"])
    made = prepare("image_folder", file, tmp_path / "out")
    assert made.manifest.facts["left_out"] == [
        "all but the last of several entries of one name: 1 (1 .png), such as a/1.png"
    ]


def test_prepare_prints_classes_and_counts_and_what_it_left(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "pics", divided("val"))
    (data / "notes.txt").write_text("x")
    for split in ("train", "val"):
        (data / split / "a" / "same.png").write_bytes(encoded(np.zeros((8, 8, 3), np.uint8)))
    assert list(data_summary(prepare("image_folder", data, tmp_path / "out").manifest.facts)) == [
        "9 to train, 9 held out; 2 classes: a 5+5, b 4+4",
        "left out files that are no pictures by their names: 1 (1 .txt), such as notes.txt",
        "warning: 1 held-out samples are among the training samples too",
    ]
    for image in data.rglob("*.png"):
        image.write_bytes(encoded(picture(len(image.parts)) // 128))
    made = prepare("image_folder", data, tmp_path / "b" / "out")
    assert "warning: values reach 1 of 255: was scaling forgotten?" in data_summary(made.manifest.facts)


def test_a_split_without_a_usable_picture_is_named(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "pics", each("train/a/{}.png", "test/a/{}.png"))
    for file in (data / "test").rglob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(TrilemmaError, match="image_folder: no usable record for held_out"):
        prepare("image_folder", data, tmp_path / "out", "skip")
