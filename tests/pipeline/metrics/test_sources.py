"""`trilemma measure` reads every sample that is there, in an order by content, or names what it left."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.metrics.features.extractors import SmallNetwork
from pipeline.metrics.standalone.measure import Measurement, measure
from pipeline.metrics.standalone.reference_file import write_reference
from tests.pipeline.data.test_pixels import MAIN, TALL, encoded, picture

FD = 97.66134  # of pixels, 24 generated pictures of seeds 100 to 123 against 24 real ones of seeds 0 to 23
GENERATED, REAL = [picture(100 + i) for i in range(24)], [picture(i) for i in range(24)]
CLASSES = 4


def folder(root: Path, images: Sequence[np.ndarray], suffix: Callable[[int], str] = lambda i: "png") -> Path:
    root.mkdir(parents=True)
    for i, image in enumerate(images):
        (root / f"{i:03d}.{suffix(i)}").write_bytes(encoded(image))
    return root


def table(images: Sequence[np.ndarray], **columns: Sequence[object]) -> pa.Table:
    cells = [{"bytes": encoded(image), "path": f"{i}.png"} for i, image in enumerate(images)]
    return pa.table({"image": cells, **columns})


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return folder(tmp_path / "real", REAL)


def fd(found: Measurement) -> tuple[float, int, int | None]:
    card = found.cards["fd"]
    return found.values["fd"].value, card.n_generated, card.n_real


def saved_to_disk(root: Path, form: str) -> Path:
    """As Hugging Face's save_to_disk."""
    root.mkdir()
    (root / "state.json").write_text("{}")
    kept = table(GENERATED, label=list(range(24)))
    with pa.OSFile(str(root / "data-00000-of-00001.arrow"), "wb") as file:
        new = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
        with new(file, kept.schema) as writer:
            writer.write_table(kept, max_chunksize=7)
    return root


ALL_READ: dict[str, tuple[Callable[[Path], Path], str]] = {
    "jfif": (lambda tmp: folder(tmp / "g", GENERATED, lambda i: "jfif" if i < 12 else "png"), ""),
    "jpe and upper case": (lambda tmp: folder(tmp / "g", GENERATED, lambda i: "JPE" if i % 2 else "PNG"), ""),
    "numbers after the point": (
        lambda tmp: folder(tmp / "g", [*GENERATED, *REAL], lambda i: "png" if i < 24 else f"{i}"),
        "left out files that are no pictures by their names: 24 (1 .24",
    ),
    "hidden files": (
        lambda tmp: folder(tmp / "g", [*GENERATED, TALL], lambda i: "png" if i < 24 else "png~"),
        "left out files that are no pictures by their names: 1 (1 .png~), such as 024.png~",
    ),
    "save_to_disk": (
        lambda tmp: saved_to_disk(tmp / "g", "stream"),
        "left out other files: 1 (1 .json), such as state.json",
    ),
    "Arrow file": (
        lambda tmp: saved_to_disk(tmp / "g", "file"),
        "left out other files: 1 (1 .json), such as state.json",
    ),
}


@pytest.mark.parametrize("what", ALL_READ)
def test_all_pictures_are_measured_and_others_are_named(what: str, real: Path, tmp_path: Path) -> None:
    make, warning = ALL_READ[what]
    found = measure(make(tmp_path), real, "pixels", ["fd"])
    assert fd(found) == (pytest.approx(FD, rel=1e-6), 24, 24)
    about_source = [line for line in found.warnings if "left out" in line]
    assert bool(about_source) == bool(warning)
    assert all(warning in line for line in about_source)
    assert set(about_source) <= set(found.json()["card"]["warnings"])


def test_the_main_picture_of_a_phone_is_measured(real: Path, tmp_path: Path) -> None:
    for name, content in (("two", MAIN), ("one", encoded(TALL, "JPEG", quality=95))):
        folder(tmp_path / name, [picture(i, 8, 6) for i in range(5)])
        (tmp_path / name / "0.jpg").write_bytes(content)
    found, expected = (measure(tmp_path / name, tmp_path / "one", "pixels", ["fd"]) for name in ("two", "one"))
    assert found.values["fd"].value == pytest.approx(expected.values["fd"].value, abs=1e-9)
    assert found.json()["card"]["pixels"]["changed"]["generated"] == {"main picture of several": 1}


@pytest.mark.parametrize(("scale", "reached"), [(255, 1), (16, 15), (9, 28)])
def test_a_forgotten_scaling_is_a_warning(scale: int, reached: int, real: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "dark.npz", np.stack(GENERATED) // (-(-256 // (reached + 1)) if scale != 255 else 128))
    found = measure(tmp_path / "dark.npz", real, "pixels", ["fd"])
    assert any(f"dark.npz: values reach {reached} of 255: was scaling forgotten?" in line for line in found.warnings)
    assert not any("scaling" in line for line in measure(real, real, "pixels", ["fd"]).warnings)


def test_arrays_beside_the_pictures_are_named(real: Path, tmp_path: Path) -> None:
    mu, sigma = np.zeros(192), np.eye(192)
    meta = np.array([{"a": 1}], object)
    np.savez(tmp_path / "VIRTUAL.npz", arr_0=np.stack(REAL), mu=mu, sigma=sigma, meta=meta)
    np.savez(tmp_path / "g.npz", arr_0=np.stack(GENERATED), arr_1=np.arange(24), meta=meta)
    found = measure(tmp_path / "g.npz", tmp_path / "VIRTUAL.npz", "pixels", ["fd"])
    assert fd(found) == (pytest.approx(FD, rel=1e-6), 24, 24)
    text = "\n".join(found.warnings)
    assert "g.npz: left out arrays arr_1 int64 (24,), meta objects (1,)" in text
    assert "VIRTUAL.npz: left out arrays mu float64 (192,), sigma float64 (192, 192), meta objects (1,)" in text
    assert "also holds mu and sigma, which are left aside: distances here are to its 24 pictures, not ADM's FID" in text


def test_a_reference_repeats_what_was_left_out(real: Path, tmp_path: Path) -> None:
    (real / "notes.txt").write_text("x")
    line = write_reference(real, tmp_path / "ref.npz", "pixels")
    assert "real: left out files that are no pictures by their names: 1 (1 .txt), such as notes.txt" in line
    found = measure(real, tmp_path / "ref.npz", "pixels", ["fd"])
    assert any(
        "ref.npz: left out files that are no pictures by their names: 1 (1 .txt)" in warning
        for warning in found.warnings
    )


def test_splits_in_one_folder_are_a_warning_and_tables_below_it_are_named(real: Path, tmp_path: Path) -> None:
    for name in ("train", "val"):
        folder(tmp_path / "pics" / name, GENERATED[:12])
        saved_to_disk(tmp_path / name, "stream").rename(tmp_path / f"saved-{name}")
        (tmp_path / "saved").mkdir(exist_ok=True)
        (tmp_path / f"saved-{name}").rename(tmp_path / "saved" / name)
    found = measure(tmp_path / "pics", real, "pixels", ["fd"])
    assert any("pics: holds train, val: all are read" in line for line in found.warnings)
    with pytest.raises(UserError, match="saved holds tables in train, val: pass one of these folders"):
        measure(tmp_path / "saved", real, "pixels")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 24, "labels: array `labels` is <U1 (24,), one whole number for each sample was wanted"),
        ([0.5] * 24, "labels: array `labels` is float64 (24,)"),
        (np.zeros((24, 4), np.int64), "labels: array `labels` is int64 (24, 4)"),
        ([0] * 20 + [-1] * 4, "labels: 4 samples have none, the first is"),
        ([1 + i % 3 for i in range(24)], "no sample has label 0: are the labels counted from 1?"),
    ],
)
def test_labels_that_are_not_used_are_named(labels: Any, message: str, real: Path, tmp_path: Path) -> None:
    SmallNetwork((3, 8, 8), CLASSES).save(tmp_path / "net.safetensors")
    np.savez(tmp_path / "g.npz", images=np.stack(GENERATED), labels=labels)
    found = measure(tmp_path / "g.npz", real, str(tmp_path / "net.safetensors"), ["fd"])
    assert any(message in line for line in found.warnings)


@pytest.mark.parametrize("labels", [[4] + [0] * 23, [1_000_000] * 24, [1 + i % 4 for i in range(24)]])
def test_labels_beyond_the_classes_of_the_network_are_an_error(labels: list[int], real: Path, tmp_path: Path) -> None:
    SmallNetwork((3, 8, 8), CLASSES).save(tmp_path / "net.safetensors")
    np.savez(tmp_path / "g.npz", images=np.stack(GENERATED), labels=labels)
    with pytest.raises(UserError, match=r"g\.npz: sample \d+ has label \d+, but there are 4 classes, 0 to 3"):
        measure(tmp_path / "g.npz", real, str(tmp_path / "net.safetensors"), ["fd"])


def npy_header(shape: str, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


NOT_THE_FILE = {
    "g.npz": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "this is a Git LFS pointer"),
    "h.npz": (b"<!DOCTYPE html><html></html>", "this is a web page: fetch the file itself"),
    "i.npy": (b"", "it is empty"),
    "j.parquet": (b"version https://git-lfs.github.com/spec/v1\noid", "this is a Git LFS pointer"),
    "k.zip": (b"<html><body>404</body></html>", "this is a web page"),
    "l.npy": (npy_header("(1000000000, 64, 64, 3)"), "is uint8 .1000000000, 64, 64, 3., but the file ends earlier"),
    "m.npy": (npy_header("(2, -1, 4, 3)"), "is not readable as .npy|ends earlier|holds"),
    "n.npy": (npy_header("(" * 5000), "is not readable as .npy"),
    "o.npy": (npy_header("(4, 8, 8, 3)", "|O"), "holds array objects .4, 8, 8, 3.: pass one array of pictures"),
    "p.arrow": (b"\xff\xff\xff\xff\x10\x00\x00\x00", "is not readable as Parquet or Arrow"),
    "q.png": (b"%!PS-Adobe", r"q\.png: pass a folder"),
}


@pytest.mark.parametrize("name", NOT_THE_FILE)
def test_what_came_in_place_of_a_file_is_named(name: str, real: Path, tmp_path: Path) -> None:
    content, message = NOT_THE_FILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        measure(tmp_path / name, real, "pixels")
    assert "\n" not in str(error.value)


def test_a_file_that_unpacks_to_far_more_is_refused_before_it_is_read(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.foreign_files.MAX_UNPACKED_BYTES", 2**20)
    monkeypatch.setattr("pipeline.data.picture_files.MAX_FILE_BYTES", 2**19)
    np.savez_compressed(tmp_path / "bomb.npz", np.zeros((10_000, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"bomb\.npz has \d+ bytes, but \d+ unpacked, more than 100 times as many"):
        measure(tmp_path / "bomb.npz", real, "pixels")
    folder(tmp_path / "g", GENERATED)
    Image.fromarray(np.zeros((600, 600, 3), np.uint8)).save(tmp_path / "g" / "large.bmp")
    with pytest.raises(UserError, match=r"large\.bmp has 1080054 bytes, more than the 524288 allowed"):
        measure(tmp_path / "g", real, "pixels")
    np.savez_compressed(tmp_path / "fine.npz", np.stack(GENERATED))
    assert measure(tmp_path / "fine.npz", real, "pixels", ["fd"]).values["fd"].value == pytest.approx(FD, rel=1e-6)
