"""What is learned of the real side is learned once, known by content, and never trusted blindly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main as cli
from pipeline.metrics.features.extractors import NetworkOutput, SmallNetwork
from pipeline.metrics.standalone.measure import Measurement, measure
from pipeline.metrics.standalone.measure_cache import Cache
from pipeline.metrics.standalone.train_extractor import train_extractor
from tests.support.digits import digits

Count = Callable[[], int]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    real, folder = digits(), tmp_path_factory.mktemp("network")
    np.savez(folder / "train.npz", images=real.train[:400, 0], labels=real.train_labels[:400])
    train_extractor(folder / "train.npz", folder / "net.safetensors", epochs=15, seed=0)
    return folder / "net.safetensors"


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    real = digits()
    np.savez(tmp_path / "generated.npz", images=real.held_out[:100, 0], labels=real.held_out_labels[:100])
    np.savez(tmp_path / "real.npz", images=real.train[:300, 0], labels=real.train_labels[:300])
    return tmp_path / "generated.npz", tmp_path / "real.npz"


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Pictures that went through the network since the last call."""
    seen: list[int] = []
    outputs = SmallNetwork.outputs

    def counted(self: SmallNetwork, images: np.ndarray) -> NetworkOutput:
        seen.append(len(images))
        return outputs(self, images)

    def since() -> int:
        total = sum(seen)
        seen.clear()
        return total

    monkeypatch.setattr(SmallNetwork, "outputs", counted)
    return since


def test_the_command_extracts_the_real_side_once(
    sides: tuple[Path, Path],
    network: Path,
    extracted: Count,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TRILEMMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["trilemma", "measure", *map(str, sides), "--extractor", str(network), "--json"])
    said, counts = [], []
    for _ in range(2):
        with pytest.raises(SystemExit):
            cli.main()
        said.append(capsys.readouterr())
        counts.append(extracted())
    assert counts == [400, 100]
    assert said[0] == said[1]


@pytest.mark.parametrize("extractor", ["network", "pixels", "none"])
def test_a_kept_real_side_gives_the_same_numbers(
    extractor: str, sides: tuple[Path, Path], network: Path, tmp_path: Path
) -> None:
    if extractor == "none":
        for file in sides:
            pictures = np.load(file)["images"]
            np.savez(file, features=pictures.reshape(len(pictures), -1)[:, 20:40].astype(np.float32))
    name, cache = str(network) if extractor == "network" else extractor, Cache(tmp_path / "cache")
    plain, made, kept = (measure(*sides, name, cache=given).json() for given in (None, cache, cache))
    assert plain == made == kept


def test_a_real_side_is_known_by_its_content_not_by_its_name(
    sides: tuple[Path, Path], network: Path, extracted: Count, tmp_path: Path
) -> None:
    generated, real = sides

    def again(real: Path) -> Measurement:
        return measure(generated, real, str(network), ["fd", "recall"], cache=Cache(tmp_path / "cache"))

    first = again(real)
    assert extracted() == 400
    np.save(tmp_path / "renamed.npy", np.load(real)["images"])
    assert again(tmp_path / "renamed.npy").values == first.values
    assert extracted() == 100
    np.savez(real, images=digits().train[100:400, 0])
    assert again(real).values != first.values
    assert extracted() == 400


def test_other_weights_are_another_key(sides: tuple[Path, Path], network: Path, extracted: Count) -> None:
    cache = Cache(sides[0].parent / "cache")
    measure(*sides, str(network), ["fd"], cache=cache)
    other = SmallNetwork.load(network)
    other.scale.mul_(2)
    other.save(sides[0].parent / "other.safetensors")
    extracted()
    measure(*sides, str(sides[0].parent / "other.safetensors"), ["fd"], cache=cache)
    assert extracted() == 400


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_told_once_and_computed_again(
    damage: str, sides: tuple[Path, Path], network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Cache(tmp_path / "cache")
    first = measure(*sides, str(network), ["fd"], cache=cache)
    kept = sorted(cache.folder.glob("*"))
    assert len(kept) == 3  # features, statistics, floors
    for file in kept:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes({"cut": content[: len(content) // 2], "changed": content, "empty": b""}[damage])
    capsys.readouterr()
    assert measure(*sides, str(network), ["fd"], cache=cache).values == first.values
    assert capsys.readouterr().err.count("computed again\n") == 3
    measure(*sides, str(network), ["fd"], cache=cache)
    assert capsys.readouterr().err == ""
    assert sorted(cache.folder.glob("*")) == kept  # and nothing half-written


def test_a_cache_that_cannot_be_written_costs_a_line_not_the_result(
    sides: tuple[Path, Path], network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    found = measure(*sides, str(network), ["fd"], cache=Cache(tmp_path / "file" / "cache"))
    assert found.values["fd"].value > 0
    assert "not kept for the next measurement" in capsys.readouterr().err


def test_labels_are_read_anew_and_judged_by_the_network(
    sides: tuple[Path, Path], network: Path, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache")
    found = measure(*sides, str(network), cache=cache)
    real = digits()
    right = SmallNetwork.load(network).accuracy(real.held_out[:100], real.held_out_labels[:100])
    assert found.values["accuracy"].value == pytest.approx(right)
    assert (found.values["accuracy"].floor or 0) > 0.5
    np.savez(sides[1], images=real.train[:300, 0], labels=np.roll(real.train_labels[:300], 1))
    assert (measure(*sides, str(network), cache=cache).values["accuracy"].floor or 1) < 0.3
    np.savez(sides[0], images=real.held_out[:100, 0])
    assert "accuracy" not in measure(*sides, str(network), cache=cache).values
