"""Pictures and features from any file: every format gives the same pictures, and errors name what cannot be used."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.shards import Pictures, encode_arrow, write_pictures
from pipeline.errors import UserError
from pipeline.metrics.standalone.feature_files import read_features
from pipeline.metrics.standalone.image_files import located, read_chunks
from pipeline.metrics.standalone.label_files import read_labels

N, SHAPE = 7, (3, 6, 5)


def pictures(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, channels, *SHAPE[1:])).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(sink, "PNG")
    return sink.getvalue()


def shards(folder: Path, images: np.ndarray) -> Path:
    write_pictures(folder, "train", Pictures(images, np.zeros(N, np.int64), np.arange(N)))
    return folder


def arrow(folder: Path, images: np.ndarray) -> Path:
    """As `prepare` writes them, in two shards."""
    for number, rows in enumerate((slice(0, 4), slice(4, N))):
        part = Pictures(images[rows], np.arange(N)[rows], np.arange(N)[rows])
        (folder / f"train-0000{number}.arrow").write_bytes(encode_arrow(part))
    return folder / "train"


def parquet_of_bytes(folder: Path, images: np.ndarray) -> Path:
    pq.write_table(pa.table({"image": [png(image) for image in images]}), folder / "a.parquet")
    return folder / "a.parquet"


def parquet_of_structs(folder: Path, images: np.ndarray) -> Path:
    cells = [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(images)]
    pq.write_table(pa.table({"image": cells, "label": [0] * N}), folder / "data-00000.parquet")
    return folder


def image_folder(folder: Path, images: np.ndarray) -> Path:
    (folder / "inner").mkdir()
    for i, image in enumerate(images):
        (folder / "inner" / f"{i}.png").write_bytes(png(image))
    (folder / "notes.txt").write_text("no picture")
    return folder


def zipped(folder: Path, images: np.ndarray) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for i, image in enumerate(images):
            archive.writestr(f"set/{i}.png", png(image))
        archive.writestr("__MACOSX/set/0.png", b"not a picture")
    return folder / "a.zip"


def npz_channels_last(folder: Path, images: np.ndarray) -> Path:
    np.savez(folder / "a.npz", arr_0=images.transpose(0, 2, 3, 1), arr_1=np.zeros(N, np.int64))
    return folder / "a.npz"


def npy(folder: Path, images: np.ndarray) -> Path:
    np.save(folder / "a.npy", images)
    return folder / "a.npy"


FORMS = [shards, arrow, parquet_of_bytes, parquet_of_structs, image_folder, zipped, npz_channels_last, npy]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pictures(
    form: Callable[[Path, np.ndarray], Path], channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.metrics.standalone.image_files.CHUNK", 3)
    chunks = list(read_chunks(form(tmp_path, pictures(channels))))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert np.array_equal(np.concatenate(chunks), pictures(channels))


def test_labels_of_shards_are_read_in_the_order_of_the_pictures(tmp_path: Path) -> None:
    found = read_labels(arrow(tmp_path, pictures()))
    assert found is not None
    assert [label.value for label in found] == list(range(N))
    assert found[5].where.endswith("train-00001.arrow row 1")


def test_one_split_of_a_folder_has_a_name_of_its_own(tmp_path: Path) -> None:
    shards(tmp_path, pictures())
    write_pictures(tmp_path, "held_out", Pictures(pictures()[:2], np.zeros(2, np.int64), np.arange(2)))
    assert sum(map(len, read_chunks(tmp_path / "held_out"))) == 2
    assert sum(map(len, read_chunks(tmp_path))) == N + 2


def test_a_source_is_looked_for_elsewhere_only_if_it_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npy(tmp_path, pictures())
    monkeypatch.chdir(tmp_path)
    assert located(Path("a.npy"), tmp_path / "elsewhere") == Path("a.npy")
    monkeypatch.chdir("/")
    assert located(Path("a.npy"), tmp_path) == tmp_path / "a.npy"
    assert located(Path("b.npy"), tmp_path) == Path("b.npy")


def save(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "a.npz", **arrays)  # type: ignore[arg-type]
    return folder / "a.npz"


def with_a_broken_picture(folder: Path) -> Path:
    cells = [png(image) for image in pictures()]
    pq.write_table(pa.table({"image": [*cells[:3], cells[3][:40], *cells[4:]]}), folder / "a.parquet")
    return folder


def with_a_missing_cell(folder: Path) -> Path:
    pq.write_table(pa.table({"image": [png(pictures()[0]), None]}), folder / "a.parquet")
    return folder


def with_another_size(folder: Path) -> Path:
    image_folder(folder, pictures())
    (folder / "inner" / "4.png").write_bytes(png(pictures()[4][:, :4]))
    return folder


def with_grey_among_colour(folder: Path) -> Path:
    image_folder(folder, pictures())
    (folder / "inner" / "2.png").write_bytes(png(pictures(1)[2]))
    return folder


def with_holes(folder: Path) -> Path:
    rgba = np.zeros((4, 4, 4), np.uint8)
    Image.fromarray(rgba).save(folder / "a.png")
    return folder


def cut_short(folder: Path) -> Path:
    path = npz_channels_last(folder, pictures())
    path.write_bytes(path.read_bytes()[:100])
    return path


UNUSABLE = {
    "a broken picture": (with_a_broken_picture, r"a\.parquet row 3 is not a readable picture"),
    "a missing cell": (with_a_missing_cell, r"a\.parquet row 1: `image` is NoneType"),
    "another size": (with_another_size, r"4\.png is RGB 5x4, but .*0\.png is RGB 5x6"),
    "grey among colour": (with_grey_among_colour, r"2\.png is grey 5x6, but .*0\.png is RGB"),
    "transparency": (with_holes, r"a\.png is transparent"),
    "a cut archive": (cut_short, r"a\.npz is not readable"),
    "floats": (lambda folder: save(folder, x=pictures() / 255), r"a\.npz: float64 pictures, row 0 has values from 0"),
    "floats outside": (
        lambda folder: save(folder, x=np.where(np.arange(N)[:, None, None, None] == 5, -1.0, pictures())),
        r"row 5 has values outside 0\.\.255",
    ),
    "which axis is colour": (
        lambda folder: save(folder, x=np.zeros((4, 3, 3, 3), np.uint8)),
        r"no clear axis of colour",
    ),
    "features": (lambda folder: save(folder, features=np.zeros((4, 3))), r"--extractor none"),
    "nothing": (lambda folder: folder, r"holds neither"),
    "no such path": (lambda folder: folder / "a.parquet", r"does not exist"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_pictures_that_cannot_be_used_are_named(what: str, tmp_path: Path) -> None:
    make, message = UNUSABLE[what]
    with pytest.raises(UserError, match=message):
        list(read_chunks(make(tmp_path)))


def test_features_keep_their_precision_and_bring_logits(tmp_path: Path) -> None:
    given = np.random.default_rng(0).normal(size=(5, 3))
    found = read_features(save(tmp_path, features=given, logits=given[:, :2].astype(np.float32)))
    assert np.array_equal(found.features, given)
    assert found.logits is not None
    assert found.logits.shape == (5, 2)
    np.save(tmp_path / "b.npy", given.astype(np.float16))
    assert read_features(tmp_path / "b.npy").features.dtype == np.float32


def test_points_in_shards_are_features(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
    assert np.array_equal(read_features(shards(tmp_path, points)).features, points)
    with pytest.raises(UserError, match="no pictures"):
        list(read_chunks(tmp_path))


NOT_A_NUMBER = np.where(np.arange(5)[:, None] == 2, np.nan, np.ones((5, 3)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": NOT_A_NUMBER}, r"a\.npz row 2: `features` holds NaN"),
        ({"features": np.ones((5, 3)), "logits": NOT_A_NUMBER}, r"row 2: `logits`"),
        ({"features": np.ones((5, 3)), "logits": np.ones((4, 3))}, r"5 rows of `features` but 4 of `logits`"),
        ({"features": np.ones((5, 3, 2))}, r"wanted floats \[n, d\]"),
        ({"images": np.ones((5, 3), np.uint8)}, r"pass an array `features`"),
    ],
)
def test_features_that_cannot_be_used_are_named(arrays: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_features(save(tmp_path, **arrays))
