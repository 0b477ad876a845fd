"""What `trilemma measure` and `trilemma weights train` cannot use: exit code 2 and one line with file and row."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main as cli
from pipeline.metrics.features.extractors import SmallNetwork
from tests.pipeline.metrics.test_image_files import png

WIDTH = 6
Side = Callable[[Path], Path]


def pictures(n: int = 6, channels: int = 3, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, side, side)).astype(np.uint8)


def saved(values: np.ndarray) -> Side:
    def save(folder: Path) -> Path:
        np.save(folder / "a.npy", values)
        return folder / "a.npy"

    return save


def changed(values: np.ndarray, row: int, value: float) -> np.ndarray:
    values = values.copy()
    values[row, 0] = value
    return values


def in_parquet(cells: list[bytes | None], labels: Sequence[object] | None = None) -> Side:
    def save(folder: Path) -> Path:
        columns = {"image": cells} | ({} if labels is None else {"label": labels})
        pq.write_table(pa.table(columns), folder / "a.parquet")
        return folder / "a.parquet"

    return save


def network(folder: Path) -> Path:
    SmallNetwork((3, 8, 8), 4).save(folder / "net.safetensors")
    return folder / "net.safetensors"


def tampered(folder: Path) -> Path:
    path = network(folder)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


def no_network(folder: Path) -> Path:
    (folder / "net.safetensors").write_bytes(b"something else")
    return folder / "net.safetensors"


@pytest.fixture
def error_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["trilemma", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (2, "")
        assert len(err.splitlines()) == 1, err
        return err

    return run


FEATURES = np.random.default_rng(1).normal(size=(40, WIDTH)).astype(np.float32)
CELLS: list[bytes | None] = [png(image) for image in pictures()]
BAD_PICTURES: dict[str, tuple[Side, str]] = {
    "floats below": (
        saved(changed(pictures().astype(np.float32), 4, -0.5)),
        r"a\.npy: float32 .* row 4 has values outside 0\.\.255",
    ),
    "floats above": (
        saved(changed(pictures().astype(np.float64), 2, 256)),
        r"a\.npy: float64 .* row 2 has values outside 0\.\.255",
    ),
    "not a number": (
        saved(changed(pictures().astype(np.float32), 3, np.nan)),
        r"a\.npy: float32 .* row 3 has values outside",
    ),
    "floats of another scale": (saved(pictures() / 255), r"a\.npy: float64 .* scale to 0\.\.255"),
    "mixed sizes": (in_parquet([*CELLS[:5], png(pictures(side=4)[0])]), r"a\.parquet row 5 is RGB 4x4, but .*row 0"),
    "grey among colour": (in_parquet([*CELLS[:2], png(pictures(channels=1)[0])]), r"a\.parquet row 2 is grey 8x8"),
    "grey against colour": (saved(pictures(channels=1)), r"a\.npy holds grey 8x8 pictures, .*real\.npy RGB 8x8"),
    "small against large": (saved(pictures(side=4)), r"a\.npy holds RGB 4x4 pictures, .*real\.npy RGB 8x8"),
    "one picture": (saved(pictures(1)), r"a\.npy holds 1 sample: pass at least 2"),
    "unreadable": (in_parquet([*CELLS[:3], b"no picture"]), r"a\.parquet row 3 is not a readable picture"),
    "missing": (in_parquet([*CELLS[:1], None]), r"a\.parquet row 1: `image` is NoneType"),
}


@pytest.mark.parametrize("what", BAD_PICTURES)
@pytest.mark.parametrize("extractor", ["pixels", "network"])
def test_pictures_that_cannot_be_measured(
    extractor: str, what: str, error_of: Callable[..., str], tmp_path: Path
) -> None:
    make, message = BAD_PICTURES[what]
    np.save(tmp_path / "real.npy", pictures())
    name = network(tmp_path) if extractor == "network" else extractor
    assert re.search(message, error_of("measure", make(tmp_path), tmp_path / "real.npy", "--extractor", name, "--json"))


BAD_FEATURES = {
    "not a number": (changed(FEATURES, 17, np.nan), r"a\.npy row 17: .* holds NaN"),
    "infinite": (changed(FEATURES, 39, np.inf), r"a\.npy row 39: .* infinity"),
    "one sample": (FEATURES[:1], r"a\.npy holds 1 sample"),
    "another width": (FEATURES[:, :3], r"a\.npy has features of width 3, .*real\.npy of 6"),
    "pictures": (pictures(), r"a\.npy: .* these look like pictures"),
}


@pytest.mark.parametrize("what", BAD_FEATURES)
def test_features_that_cannot_be_measured(what: str, error_of: Callable[..., str], tmp_path: Path) -> None:
    values, message = BAD_FEATURES[what]
    np.save(tmp_path / "real.npy", FEATURES)
    assert re.search(
        message, error_of("measure", saved(values)(tmp_path), tmp_path / "real.npy", "--extractor", "none")
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tampered, r"net\.safetensors: content has digest \w+, not \w+ as recorded"),
        (no_network, r"net\.safetensors holds no small network"),
        (lambda folder: folder / "none.safetensors", r"none\.safetensors does not exist"),
    ],
)
def test_networks_that_cannot_be_used(make: Side, message: str, error_of: Callable[..., str], tmp_path: Path) -> None:
    source = saved(pictures())(tmp_path)
    assert re.search(message, error_of("measure", source, source, "--extractor", make(tmp_path)))


def test_inception_weights_of_another_digest_are_not_used(
    error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights-inception-2015-12-05-6726825d.pth").write_bytes(b"other weights")
    monkeypatch.setenv("TRILEMMA_WEIGHTS", str(tmp_path))
    source = saved(pictures())(tmp_path)
    for extractor in (["--extractor", "inception-v3-compat"], []):
        assert re.search(r"6726825d\.pth: SHA-256 is \w+, but", error_of("measure", source, source, *extractor))


BAD_LABELS: dict[str, tuple[Side, str]] = {
    "no labels": (in_parquet(CELLS), r"a\.parquet has no labels"),
    "words": (in_parquet(CELLS, [*"abcdef"]), r"a\.parquet has no labels: pass Parquet with integers"),
    "a gap": (in_parquet(CELLS, [0, 1, 0, None, 1, 0]), r"a\.parquet row 3 has no label \(1 such rows\)"),
    "one class": (in_parquet(CELLS, [0] * 6), r"wanted 0, 1, \.\.\. with at least two classes"),
    "a class without pictures": (in_parquet(CELLS, [0, 2] * 3), r"labels are \[0, 2\]"),
    "an unreadable picture": (in_parquet([*CELLS[:5], b""], [0, 1] * 3), r"a\.parquet row 5 is not a readable picture"),
}


@pytest.mark.parametrize("what", BAD_LABELS)
def test_pictures_no_network_can_be_trained_on(what: str, error_of: Callable[..., str], tmp_path: Path) -> None:
    make, message = BAD_LABELS[what]
    assert re.search(message, error_of("weights", "train", make(tmp_path), tmp_path / "net.safetensors"))
    assert not (tmp_path / "net.safetensors").exists()


def test_a_network_is_a_file_of_its_own_kind(error_of: Callable[..., str], tmp_path: Path) -> None:
    source = in_parquet(CELLS, [0, 1] * 3)(tmp_path)
    assert "ends in .safetensors" in error_of("weights", "train", source, tmp_path / "net.pth")
