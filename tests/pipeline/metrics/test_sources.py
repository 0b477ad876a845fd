"""`trilemma measure` reads every sample that is there, in an order by content, or names what it left."""

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
from pipeline.data.shards import Pictures, encode_arrow
from pipeline.errors import UserError
from pipeline.metrics.features.extractors import SmallNetwork
from pipeline.metrics.standalone.measure import Measurement, measure
from pipeline.metrics.standalone.reference_file import write_reference
from pipeline.metrics.standalone.train_extractor import train_extractor
from tests.pipeline.data.test_datasets import prepare
from tests.pipeline.data.test_pixels import MAIN, TALL, channels_first, encoded, picture

FD = 97.66134  # of pixels, 24 generated pictures of seeds 100 to 123 against 24 real ones of seeds 0 to 23
GENERATED, REAL = [picture(100 + i) for i in range(24)], [picture(i) for i in range(24)]


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


def by_class() -> dict[str, dict[str, np.ndarray]]:
    """Features and logits of 1,000 samples of ten classes: class by class, and shuffled."""
    rng, classes = np.random.default_rng(1), 10
    centres = rng.normal(size=(classes, 8)) * 5
    labels = np.repeat(np.arange(classes), 100)
    real, generated = (centres[labels] + np.random.default_rng(seed).normal(size=(1000, 8)) for seed in (2, 3))
    logits = np.where(np.arange(classes) == labels[:, None], 6.0, 0.0) + rng.normal(size=(1000, classes)) * 0.3
    order = np.random.default_rng(4).permutation(1000)
    return {
        "real": {"features": real, "logits": logits},
        "by-class": {"features": generated, "logits": logits, "labels": labels},
        "shuffled": {"features": generated[order], "logits": logits[order], "labels": labels[order]},
        "backwards": {"features": generated[::-1], "logits": logits[::-1], "labels": labels[::-1]},
    }


def test_the_order_of_samples_changes_nothing(tmp_path: Path) -> None:
    for name, arrays in by_class().items():
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    names, real = ("by-class", "shuffled", "backwards"), tmp_path / "real.npz"
    complete = [measure(tmp_path / f"{name}.npz", real, "none", ["is", "fd", "accuracy"], [0]) for name in names]
    assert complete[0].values["is"].value == pytest.approx(8.19, abs=0.05)  # of random orders: 8.17 +- 0.05
    part = [measure(tmp_path / f"{name}.npz", real, "none", ["fd", "recall"], [0], images=500) for name in names]
    assert part[0].values["fd"].value == pytest.approx(0.28, abs=0.06)
    assert part[0].values["recall"].value == pytest.approx(0.86, abs=0.04)
    for found in (complete, part):
        assert found[0].values == found[1].values == found[2].values
        assert found[0].cards == found[1].cards == found[2].cards
    assert dict(complete[0].cards["is"].settings) == {"splits": 10, "order_seed": 1}
    assert dict(part[0].cards["fd"].settings) == {"order_seed": 1}
    assert "permuted by seed 1" in complete[0].json()["card"]["order"]


COUNT, CLASSES = 40, 4
SET = [picture(i) for i in range(COUNT - 2)] + [picture(0), picture(1)]  # two of them twice
LABELS = [i % CLASSES for i in range(COUNT)]


def as_folder(root: Path, order: Sequence[int]) -> Path:
    for place, i in enumerate(order):
        file = root / f"class{LABELS[i]}" / f"{place:03d}.{'png' if i % 2 else 'bmp'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(SET[i], "PNG" if i % 2 else "BMP"))
    return root


def as_zip(root: Path, order: Sequence[int]) -> Path:
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for place, i in enumerate(order):
            archive.writestr(f"all/class{LABELS[i]}/{place:03d}.png", encoded(SET[i]))
    return root.with_suffix(".zip")


def as_parquet(root: Path, order: Sequence[int]) -> Path:
    root.mkdir(parents=True)
    rows = {"image": [encoded(SET[i]) for i in order], "label": [LABELS[i] for i in order]}
    for part in range(2):
        half = {name: column[part * 20 : part * 20 + 20] for name, column in rows.items()}
        pq.write_table(pa.table(half), root / f"train-{part:05d}-of-00002.parquet")
    return root


def as_npz(root: Path, order: Sequence[int]) -> Path:
    np.savez(root.with_suffix(".npz"), images=np.stack([SET[i] for i in order]), labels=[LABELS[i] for i in order])
    return root.with_suffix(".npz")


def as_shards(root: Path, order: Sequence[int]) -> Path:
    root.mkdir(parents=True)
    images = np.stack([channels_first(SET[i]) for i in order])
    numbers = np.array([LABELS[i] for i in order])
    (root / "data-0.arrow").write_bytes(encode_arrow(Pictures(images, numbers, np.arange(COUNT))))
    return root


FORMS = [as_folder, as_zip, as_parquet, as_npz, as_shards]


@pytest.mark.parametrize("extractor", ["pixels", "network"])
def test_twenty_orders_and_all_forms_measure_to_the_same_bits(extractor: str, tmp_path: Path) -> None:
    network = SmallNetwork((3, 8, 8), CLASSES)
    network.save(tmp_path / "net.safetensors")
    name = "pixels" if extractor == "pixels" else str(tmp_path / "net.safetensors")
    found = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(COUNT).tolist()
        generated, real = (FORMS[(seed + k) % len(FORMS)](tmp_path / f"{seed}-{k}", order) for k in range(2))
        found.append(measure(generated, real, name, ["fd", "kid", "recall"], [0], images=30).values)
    assert all(values == found[0] for values in found)


def test_the_order_of_files_does_not_change_a_trained_network(tmp_path: Path) -> None:
    for seed, form in enumerate((as_parquet, as_npz, as_shards)):
        order = np.random.default_rng(seed).permutation(COUNT).tolist()
        train_extractor(form(tmp_path / f"data{seed}", order), tmp_path / f"{seed}.safetensors", epochs=2, seed=0)
    assert len({(tmp_path / f"{seed}.safetensors").read_bytes() for seed in range(3)}) == 1


def files_of(made: Artifact) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in made.manifest.files.items()}


def test_twenty_orders_of_a_folder_and_of_a_zip_prepare_to_the_same_bits(tmp_path: Path) -> None:
    made = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(COUNT).tolist()
        data = (as_folder, as_zip)[seed % 2](tmp_path / f"data{seed}", order)
        made.append(prepare("image_folder", data, tmp_path / str(seed) / "out", held_out_share=0.25))
    assert all(files_of(each) == files_of(made[0]) for each in made)
    assert all(each.manifest.facts == made[0].manifest.facts for each in made)
    facts = made[0].manifest.facts
    assert (facts["train"], facts["held_out"]) == (30, 10)
    assert "permuted by seed 1" in facts["order"]


def test_given_splits_prepare_to_the_same_bits_as_folder_and_as_parquet(tmp_path: Path) -> None:
    made = []
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(COUNT).tolist()
        root = tmp_path / f"data{seed}"
        for split, rows in (("train", order[:]), ("test", order[::-1])):
            part = [i for i in rows if (i < 30) == (split == "train")]
            if seed % 2:
                as_folder(root / split, part)
            else:
                root.mkdir(exist_ok=True)
                columns = {"image": [encoded(SET[i]) for i in part], "label": [LABELS[i] for i in part]}
                pq.write_table(pa.table(columns), root / f"{split}-{seed}.parquet")
        options: dict[str, Any] = {} if seed % 2 else {"names": [f"class{i}" for i in range(CLASSES)]}
        made.append(prepare("image_folder" if seed % 2 else "parquet", root, tmp_path / str(seed) / "out", **options))
    assert all(files_of(each) == files_of(made[0]) for each in made)


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
