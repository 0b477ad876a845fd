"""`trilemma reference`, and references that other projects publish."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main as cli
from pipeline.errors import UserError
from pipeline.metrics.features.extractors import Features, SmallNetwork
from pipeline.metrics.features.inception import Inception
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.standalone.measure import measure
from pipeline.metrics.standalone.reference_file import ABOUT, write_reference
from pipeline.metrics.standalone.train_extractor import train_extractor
from pipeline.metrics.values.frechet import frechet_distance
from tests.support.digits import digits

WIDTH = 8
SPATIAL = (7, 3, 2)


def draw(n: int, seed: int, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    real, folder = digits(), tmp_path_factory.mktemp("network")
    np.savez(folder / "train.npz", images=real.train[:400, 0], labels=real.train_labels[:400])
    train_extractor(folder / "train.npz", folder / "new" / "net.safetensors", epochs=15, seed=0)
    assert [file.name for file in (folder / "new").iterdir()] == ["net.safetensors"]
    return folder / "new" / "net.safetensors"


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    real = digits()
    np.savez(tmp_path / "generated.npz", images=real.held_out[:100, 0], labels=real.held_out_labels[:100])
    np.savez(tmp_path / "real.npz", images=real.train[:300, 0], labels=real.train_labels[:300])
    return tmp_path / "generated.npz", tmp_path / "real.npz"


@pytest.fixture
def features(tmp_path: Path) -> Path:
    np.savez(tmp_path / "features.npz", features=draw(60, 1), logits=draw(60, 2))
    return tmp_path / "features.npz"


@pytest.mark.parametrize("extractor", ["network", "pixels", "none"])
def test_a_reference_gives_the_values_of_its_pictures_to_the_bit(
    extractor: str, pictures: tuple[Path, Path], network: Path, tmp_path: Path
) -> None:
    if extractor == "none":
        for file in pictures:
            images = np.load(file)["images"]
            values = images.reshape(len(images), -1)[:, 20:40].astype(np.float32)
            np.savez(file, features=values, logits=values[:, :5])
    name, out = str(network) if extractor == "network" else extractor, tmp_path / "new" / "ref.npz"
    write_reference(pictures[1], out, name)
    assert [file.name for file in out.parent.iterdir()] == ["ref.npz"]
    pictures[1].rename(tmp_path / "away.npz")
    found = measure(pictures[0], out, None if extractor != "network" else name)
    expected = measure(pictures[0], tmp_path / "away.npz", name)
    assert found.values == expected.values
    assert (found.real_vs_real, found.warnings) == (expected.real_vs_real, expected.warnings)
    assert "is" in found.values or extractor == "pixels"
    assert all(value.real_vs_real is not None for value in found.values.values())
    for metric, card in found.cards.items():
        assert card.reference.startswith("ref.npz@")
        assert card.reference_digest == expected.cards[metric].reference_digest


def test_the_command_does_not_run_the_network_over_the_real_side_again(
    pictures: tuple[Path, Path], network: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs, counts = SmallNetwork.outputs, list[int]()

    def counted(self: SmallNetwork, images: np.ndarray) -> Features:
        counts.append(len(images))
        return outputs(self, images)

    def run(*words: object) -> str:
        counts.clear()
        monkeypatch.setattr("sys.argv", ["trilemma", *map(str, words), "--extractor", str(network)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    monkeypatch.setattr(SmallNetwork, "outputs", counted)
    out = pictures[0].parent / "ref.npz"
    assert "300 real samples, small-cnn@" in run("reference", pictures[1], out)
    assert sum(counts) == 300
    assert "300 real (ref.npz@" in run("measure", pictures[0], out)
    assert sum(counts) == 100
    assert json.loads(run("measure", pictures[0], out, "--json"))["fd"]["value"] > 0


def test_a_reference_is_read_without_pickle_and_describes_itself(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    write_reference(pictures[1], tmp_path / "ref.npz", "pixels")
    with np.load(tmp_path / "ref.npz", allow_pickle=False) as arrays:
        about = json.loads(arrays[ABOUT].item())
        assert {"features", "mean", "scatter", "factor", "neighbours"} <= set(arrays.files)
    assert (about["name"], about["n"], about["shape"], len(about["samples"])) == ("pixels", 300, [1, 8, 8], 64)


def test_a_reference_of_another_extractor_or_of_other_weights_is_refused(
    pictures: tuple[Path, Path], network: Path, tmp_path: Path
) -> None:
    write_reference(pictures[1], tmp_path / "ref.npz", str(network))
    other = SmallNetwork.load(network)
    other.scale.mul_(2)
    other.save(tmp_path / "other.safetensors")
    for name in ("pixels", str(tmp_path / "other.safetensors")):
        with pytest.raises(UserError, match=r"ref\.npz was made with small-cnn@\w+ .* but this measurement uses \S+@"):
            measure(pictures[0], tmp_path / "ref.npz", name)


def test_a_reference_of_pictures_of_another_size_is_refused(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    write_reference(pictures[1], tmp_path / "ref.npz", "pixels")
    np.save(tmp_path / "small.npy", digits().held_out[:40, :, :4, :4])
    with pytest.raises(UserError, match=r"small\.npy holds grey 4x4 pictures, .*ref\.npz grey 8x8"):
        measure(tmp_path / "small.npy", tmp_path / "ref.npz")


def test_what_cannot_become_a_reference_is_named(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    write_reference(pictures[1], tmp_path / "ref.npz", "pixels")
    with pytest.raises(UserError, match="is a reference already"):
        write_reference(tmp_path / "ref.npz", tmp_path / "again.npz", "pixels")
    with pytest.raises(UserError, match=r"ends in \.npz"):
        write_reference(pictures[1], tmp_path / "ref.safetensors", "pixels")


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.mean(axis=0, dtype=np.float64), np.cov(values, rowvar=False)


def test_published_mean_and_covariance_give_the_distance_alone(features: Path, tmp_path: Path) -> None:
    mu, sigma = moments(draw(500, 3))
    np.savez(tmp_path / "stats.npz", mu=mu, sigma=sigma)
    found = measure(features, tmp_path / "stats.npz", "none")
    expected = frechet_distance(FeatureStats.of(draw(60, 1)), FeatureStats.of(draw(500, 3))).value
    assert set(found.values) == {"fd", "is"}
    assert found.values["fd"].value == pytest.approx(expected, rel=1e-9)
    assert found.values["fd"].low < expected < found.values["fd"].high
    card, warnings = found.cards["fd"], " ".join(found.warnings)
    assert (card.n_real, card.reference[:10]) == (None, "stats.npz@")
    assert card.reference_digest[:8] == card.reference[-8:]
    assert " n=60/?" in str(card)
    for part in ("left out: kid", "states neither its extractor nor its number of samples", "holds no real samples"):
        assert part in warnings
    assert found.json()["card"]["n_real"] is None
    with pytest.raises(UserError, match=r"recall compares samples, but .*stats\.npz holds only their mean"):
        measure(features, tmp_path / "stats.npz", "none", ["fd", "recall"])


def changed(values: np.ndarray, row: int, column: int, value: float) -> np.ndarray:
    values = values.copy()
    values[row, column] = value
    return values


BAD: dict[str, tuple[Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]], str]] = {
    "width": (lambda mu, sigma: {"mu": mu[:-1], "sigma": sigma[:-1, :-1]}, r"mu is \(7,\), .* extractor has 8"),
    "shape": (lambda mu, sigma: {"mu": mu, "sigma": sigma[:-1]}, r"sigma \(7, 8\)"),
    "words": (lambda mu, sigma: {"mu": mu.astype(str), "sigma": sigma}, "pass floats"),
    "not a number": (lambda mu, sigma: {"mu": mu, "sigma": changed(sigma, 2, 2, np.nan)}, "NaN or infinity"),
    "skew": (lambda mu, sigma: {"mu": mu, "sigma": changed(sigma, 2, 3, 5.0)}, "not symmetric"),
}


@pytest.mark.parametrize("what", BAD)
def test_statistics_that_cannot_be_used_are_named(what: str, features: Path, tmp_path: Path) -> None:
    make, message = BAD[what]
    np.savez(tmp_path / "stats.npz", **make(*moments(draw(500, 3))))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"stats\.npz: .*{message}"):
        measure(features, tmp_path / "stats.npz", "none")


def test_pictures_of_a_published_batch_are_used_for_all_metrics(pictures: tuple[Path, Path], tmp_path: Path) -> None:
    images = digits().train[:300].transpose(0, 2, 3, 1)
    mu, sigma = moments(draw(500, 3))
    np.savez(tmp_path / "VIRTUAL_digits.npz", arr_0=images, mu=mu, sigma=sigma)
    found = measure(pictures[0], tmp_path / "VIRTUAL_digits.npz", "pixels")
    assert found.values == measure(*pictures, "pixels").values
    assert found.cards["recall"].n_real == 300
    assert found.cards["recall"].reference.startswith("VIRTUAL_digits.npz@")
    assert any("also holds mu and sigma" in warning for warning in found.warnings)


class SpatialExtractor:
    """As Inception, with features that cost nothing."""

    name, layer, preprocessing, digest = Inception.name, "pool", "none", "0" * 64

    def outputs(self, images: np.ndarray) -> Features:
        flat = images.reshape(len(images), -1)[:, :WIDTH].astype(np.float32)
        mixing = np.random.default_rng(0).normal(size=(WIDTH, int(np.prod(SPATIAL)))).astype(np.float32)
        return Features(flat, None, np.sin(flat @ mixing))


def test_published_spatial_statistics_have_channels_last(
    pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.metrics.standalone.measure.extractor_of", lambda _name: SpatialExtractor())
    real = SpatialExtractor().outputs(digits().train[:300])
    assert real.spatial is not None
    channels_last = real.spatial.reshape(-1, *SPATIAL).transpose(0, 2, 3, 1).reshape(300, -1)
    (mu, sigma), (mu_s, sigma_s) = moments(real.features), moments(channels_last)
    np.savez(tmp_path / "stats.npz", mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    found = measure(pictures[0], tmp_path / "stats.npz")
    expected = measure(*pictures, metrics=["fid", "sfid"])
    assert set(found.values) == {"fid", "sfid"}
    for name in ("fid", "sfid"):
        assert found.values[name].value == pytest.approx(expected.values[name].value, rel=1e-6)
    assert found.cards["sfid"].layer == "spatial-7x17x17"
    np.savez(tmp_path / "stats.npz", mu=mu, sigma=sigma)
    with pytest.raises(UserError, match=r"sfid needs mu_s and sigma_s"):
        measure(pictures[0], tmp_path / "stats.npz", metrics=["sfid"])


def test_labels_of_the_reference_give_the_real_vs_real_accuracy(
    pictures: tuple[Path, Path], network: Path, tmp_path: Path
) -> None:
    write_reference(pictures[1], tmp_path / "ref.npz", str(network))
    found = measure(pictures[0], tmp_path / "ref.npz", str(network))
    real = digits()
    right = SmallNetwork.load(network).accuracy(real.held_out[:100], real.held_out_labels[:100])
    assert found.values["accuracy"].value == pytest.approx(right)
    assert (found.values["accuracy"].real_vs_real or 0) > 0.5
    assert found.cards["accuracy"].layer == "class"
    np.savez(pictures[0], images=real.held_out[:100, 0])
    assert "accuracy" not in measure(pictures[0], tmp_path / "ref.npz", str(network)).values
