"""Other people's pictures become shards, whatever they lie in; what cannot be used is named."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.artifacts import Artifact
from pipeline.data.decode import Preprocess, decode_picture
from pipeline.data.row_index import open_rows
from pipeline.data.sample_order import content_order, digests
from pipeline.data.shards import read_pictures
from pipeline.errors import TrilemmaError
from pipeline.store.external import external, locate
from tests.support.children import kill, start
from tests.support.stages import run_stage_alone

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (24, 8, 8, 3)).astype(np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def as_parquet(folder: Path, cells: list[Any] | None = None, labels: Sequence[int | None] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    cells = cells if cells is not None else [{"bytes": encoded(p), "path": f"{i}.png"} for i, p in enumerate(PICTURES)]
    labels = labels if labels is not None else [i % 2 for i in range(len(cells))]
    for name, rows in (("train-0", slice(16)), ("test-0", slice(16, None))):
        pq.write_table(pa.table({"image": cells[rows], "label": labels[rows]}), folder / f"{name}.parquet")
    return folder


def as_folder(folder: Path, splits: bool = True) -> Path:
    for i, picture in enumerate(PICTURES):
        split = ("train" if i < 16 else "test") if splits else "."
        place = folder / split / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:03d}.png").write_bytes(encoded(picture))
    return folder


def as_zip(file: Path, listed: bool = False) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for i, picture in enumerate(PICTURES):
            archive.writestr(f"{i:05d}/img{i:08d}.png" if listed else f"class{i % 2}/{i}.png", encoded(picture))
        if listed:
            labels = [[f"{i:05d}/img{i:08d}.png", i % 2] for i in range(len(PICTURES))]
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return file


def as_cifar(file: Path) -> Path:
    images = RNG.integers(0, 256, (6, 3072)).astype(np.uint8)
    with tarfile.open(file, "w:gz") as archive:
        for i in range(6):
            name = f"data_batch_{i + 1}.bin" if i < 5 else "test_batch.bin"
            add(archive, f"cifar-10-batches-bin/{name}", bytes([i]) + images[i].tobytes())
        add(archive, "cifar-10-batches-bin/batches.meta.txt", b"\n".join(b"class%d" % i for i in range(10)) + b"\n\n")
    return file


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def prepare(source: str, path: Path, out: Path, on_bad_record: str = "stop", **options: Any) -> Artifact:
    config = {"source": source, "options": options, "on_bad_record": on_bad_record}
    return run_stage_alone("prepare", config, {"files": external(path, out.parent / "digests")}, out)


TWO = ["a", "b"]
SOURCES: dict[str, Callable[[Path], Artifact]] = {
    "parquet": lambda tmp: prepare("parquet", as_parquet(tmp / "data"), tmp / "out", names=TWO),
    "folder": lambda tmp: prepare("image_folder", as_folder(tmp / "data"), tmp / "out"),
    "folder-unsplit": lambda tmp: prepare("image_folder", as_folder(tmp / "data", False), tmp / "out"),
    "zip": lambda tmp: prepare("image_folder", as_zip(tmp / "data.zip"), tmp / "out", held_out_share=0.25),
    "edm-zip": lambda tmp: prepare("image_folder", as_zip(tmp / "data.zip", True), tmp / "out"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_picture_arrives_with_its_label(source: str, tmp_path: Path) -> None:
    made = SOURCES[source](tmp_path)
    splits = [read_pictures(made.path, split) for split in ("train", "held_out")]
    images = np.concatenate([split.images for split in splits]).transpose(0, 2, 3, 1)
    labels = np.concatenate([split.labels for split in splits])
    expected = {picture.tobytes(): i % 2 for i, picture in enumerate(PICTURES)}
    assert {image.tobytes(): int(label) for image, label in zip(images, labels)} == expected
    facts = made.manifest.facts
    assert facts["shape"] == [3, 8, 8]
    assert facts["classes"] == 2
    assert sum(map(sum, facts["class_counts"].values())) == 24
    assert facts["std"] == pytest.approx(float((splits[0].images / 127.5 - 1).std()), abs=1e-6)


def test_the_official_archive_is_read_without_unpacking(tmp_path: Path) -> None:
    made = prepare("cifar", as_cifar(tmp_path / "cifar-10-binary.tar.gz"), tmp_path / "out", verify=False)
    train = read_pictures(made.path, "train")
    assert train.images.shape == (5, 3, 32, 32)
    assert train.labels.tolist() == [0, 1, 2, 3, 4]
    assert made.manifest.facts["label_names"][3] == "class3"


def test_an_archive_that_is_not_the_official_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrilemmaError, match=r"SHA-256 [0-9a-f]{12}\.\.\. but the official archive has c4a38c50a1bc"):
        prepare("cifar", as_cifar(tmp_path / "cifar-10-binary.tar.gz"), tmp_path / "out")


def test_the_content_of_the_files_decides_the_key_and_their_place_does_not(tmp_path: Path) -> None:
    one, same = as_parquet(tmp_path / "one"), as_parquet(tmp_path / "elsewhere" / "two")
    assert external(one, tmp_path / "digests").digest == external(same, tmp_path / "digests").digest
    as_parquet(same, labels=[1] * 24)
    assert external(one, tmp_path / "digests").digest != external(same, tmp_path / "digests").digest


def test_a_path_is_looked_for_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRILEMMA_DATA", str(tmp_path))
    data = as_parquet(tmp_path / "one")
    assert locate("one", tmp_path / "study", "datasets.x") == data
    with pytest.raises(TrilemmaError, match=r"datasets\.x: 'two' is neither of .* set TRILEMMA_DATA or --source"):
        locate("two", tmp_path / "study", "datasets.x")


def test_many_shards_are_read_as_one_without_joining_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.shards.MAX_SHARD_BYTES", 5 * 192)
    made = prepare("parquet", as_parquet(tmp_path / "data"), tmp_path / "out", names=TWO)
    assert len(list(made.path.glob("train-*.arrow"))) == 4
    rows = open_rows(made.path, "train")
    index = np.array([15, 0, 7, 7, 4])
    pictures, labels = PICTURES[:16].transpose(0, 3, 1, 2), np.arange(16) % 2
    order = content_order(digests(pictures), labels)
    np.testing.assert_array_equal(rows[index], pictures[order[index]])
    np.testing.assert_array_equal(rows.labels, labels[order])


def test_the_first_pictures_of_each_split_are_enough_where_the_entry_says_so(tmp_path: Path) -> None:
    made = prepare("parquet", as_parquet(tmp_path / "data"), tmp_path / "out", names=TWO, limit=5)
    assert (made.manifest.facts["train"], made.manifest.facts["held_out"]) == (5, 5)


def with_cell(cell: Any) -> list[Any]:
    cells: list[Any] = [{"bytes": encoded(picture), "path": ""} for picture in PICTURES]
    cells[3] = {"bytes": cell, "path": ""}
    return cells


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(picture) for picture in PICTURES[:2]]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


BAD = {
    "broken": (b"no picture", "is not a readable picture: no known format"),
    "truncated": (encoded(PICTURES[0])[:60], "is not a readable picture"),
    "empty": (b"", "is not a readable picture: it is empty"),
    "16-bit": (encoded(np.full((8, 8), 40_000, np.uint16)), "has mode I;16: pass 8-bit grey or RGB"),
    "animated": (animated(), "is animated: take one frame"),
    "grey": (encoded(PICTURES[0, :, :, 0]), r"uint8 of shape \(1, 8, 8\), but the first record is uint8 of shape"),
    "large": (encoded(np.zeros((9, 9, 3), np.uint8)), r"shape \(3, 9, 9\), but the first record"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_picture_that_cannot_be_used_is_named_before_anything_is_written(fault: str, tmp_path: Path) -> None:
    content, message = BAD[fault]
    data = as_parquet(tmp_path / "data", with_cell(content))
    with pytest.raises(TrilemmaError, match=rf"train-0\.parquet row 3.*{message}.*1 of 16 records of train-00000"):
        prepare("parquet", data, tmp_path / "out", names=TWO)
    assert not (tmp_path / "out").exists()


def test_bad_records_are_counted_where_the_entry_says_so(tmp_path: Path) -> None:
    data = as_parquet(tmp_path / "data", with_cell(b"no picture"))
    made = prepare("parquet", data, tmp_path / "out", "skip", names=TWO)
    assert made.manifest.facts["bad_records"] == 1
    assert made.manifest.facts["train"] == 15
    assert "row 3" in json.loads((made.path / "bad_records.json").read_text())[0]


@pytest.mark.parametrize("label", [2, -1, None])
def test_a_label_that_is_missing_or_beyond_the_classes_is_named(label: int | None, tmp_path: Path) -> None:
    data = as_parquet(tmp_path / "data", labels=[0] * 5 + [label] + [0] * 18)
    with pytest.raises(TrilemmaError, match=rf"row 5: label {label}, but there are 2 classes, 0 to 1"):
        prepare("parquet", data, tmp_path / "out", names=TWO)


def test_a_name_that_leaves_the_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("../outside/1.png", encoded(PICTURES[0]))
    with pytest.raises(TrilemmaError, match=r"'\.\./outside/1\.png' leads out of it"):
        prepare("image_folder", tmp_path / "data.zip", tmp_path / "out")


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.picture_files.MAX_FILE_BYTES", 100)
    with pytest.raises(TrilemmaError, match=r"class0/0\.png has \d+ bytes, more than the 100 allowed"):
        prepare("image_folder", as_zip(tmp_path / "data.zip"), tmp_path / "out")


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    data = as_folder(tmp_path / "data")
    (tmp_path / "secret.png").write_bytes(encoded(PICTURES[0]))
    (data / "train" / "class0" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(TrilemmaError, match=r"link\.png' leads out of it"):
        prepare("image_folder", data, tmp_path / "out")


def test_duplicates_across_splits_are_counted(tmp_path: Path) -> None:
    cells = [{"bytes": encoded(picture), "path": ""} for picture in PICTURES]
    made = prepare("parquet", as_parquet(tmp_path / "data", [*cells[:16], *cells[:8]]), tmp_path / "out", names=TWO)
    assert made.manifest.facts["duplicates"] == {"train": 0, "across": 8}


def test_a_colour_table_is_looked_up() -> None:
    table = Image.fromarray(PICTURES[0]).quantize(16)
    buffer = io.BytesIO()
    table.save(buffer, "PNG")
    np.testing.assert_array_equal(
        decode_picture(buffer.getvalue(), "it"), np.array(table.convert("RGB")).transpose(2, 0, 1)
    )


def test_pictures_are_cropped_and_resized_as_declared() -> None:
    wide = np.zeros((8, 12, 3), np.uint8)
    wide[:, 2:10] = PICTURES[0]
    np.testing.assert_array_equal(
        decode_picture(encoded(wide), "it", Preprocess(crop="square")), PICTURES[0].transpose(2, 0, 1)
    )
    boxes = PICTURES[0].reshape(4, 2, 4, 2, 3).mean((1, 3))
    halved = decode_picture(encoded(PICTURES[0]), "it", Preprocess(size=4, filter="bicubic", halve_first=True))
    np.testing.assert_allclose(halved.transpose(1, 2, 0), boxes, atol=1.0)  # rounded once per axis
    large = RNG.integers(0, 256, (41, 60, 3)).astype(np.uint8)
    once = Image.fromarray(large).resize((30, 20), Image.Resampling.BOX)  # as ADM prepares ImageNet
    theirs = np.asarray(once.resize((24, 16), Image.Resampling.BICUBIC))[:, 4:20].transpose(2, 0, 1)
    adm = Preprocess(crop="square", size=16, filter="bicubic", halve_first=True)
    np.testing.assert_array_equal(decode_picture(encoded(large), "it", adm), theirs)
    assert decode_picture(encoded(PICTURES[0]), "it", Preprocess(colour="grey")).shape == (1, 8, 8)
    with pytest.raises(ValueError, match="it is 12x8, too small to crop 9 pixels"):
        decode_picture(encoded(wide), "it", Preprocess(crop=9))


STUCK = """
import sys
import time
from pathlib import Path
import pipeline.data.decode as decode
import pipeline.data.shards
from tests.pipeline.data.test_datasets import TWO, prepare

def stuck(content, where, preprocess, decode=decode.decode):
    if where.endswith("row 12"):
        print("in the third shard", flush=True)
        time.sleep(600)
    return decode(content, where, preprocess)

pipeline.data.shards.MAX_SHARD_BYTES, decode.decode = 5 * 192, stuck
prepare("parquet", Path(sys.argv[1]), Path(sys.argv[2]), names=TWO)
"""


def test_a_preparation_killed_with_minus_nine_is_finished_by_the_next_one_to_the_same_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.shards.MAX_SHARD_BYTES", 5 * 192)
    data, out = as_parquet(tmp_path / "data"), tmp_path / "killed" / "out"
    whole = prepare("parquet", data, tmp_path / "whole" / "out", names=TWO)
    kill(start(STUCK, data, out))
    assert not out.exists()
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed" / "store").rglob("*.arrow")}
    assert len(finished) == 2
    assert prepare("parquet", data, out, names=TWO).digest == whole.digest
    assert {file: file.stat().st_mtime_ns for file in finished} == finished  # and not made again
