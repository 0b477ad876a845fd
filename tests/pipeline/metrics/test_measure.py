"""`trilemma measure`: values, intervals, real-vs-real values, cards, and its behaviour on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main as cli
from pipeline.errors import UserError
from pipeline.metrics.features.extractors import Features, SmallNetwork
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.standalone.jackknife import half_widths
from pipeline.metrics.standalone.measure import measure, numbers
from pipeline.metrics.suite import Real, compute
from pipeline.metrics.values.frechet import frechet_distance
from pipeline.metrics.values.kid import kid
from tests.support.digits import digits

WIDTH = 6


def draw(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, WIDTH)) + shift).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    np.savez(tmp_path / "generated.npz", features=draw(200, 1, 0.3), logits=draw(200, 3))
    np.savez(tmp_path / "real.npz", features=draw(500, 2))
    return tmp_path / "generated.npz", tmp_path / "real.npz"


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["trilemma", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_values_are_those_of_the_metrics_with_interval_real_vs_real_value_and_card(files: tuple[Path, Path]) -> None:
    found = measure(*files, "none")
    generated, real = draw(200, 1, 0.3), draw(500, 2)
    distance = frechet_distance(FeatureStats.of(generated), FeatureStats.of(real)).value
    assert found.values["fd"].value == pytest.approx(distance, rel=1e-9)
    assert found.values["kid"].value == pytest.approx(kid(generated, real).value, rel=1e-9)
    assert set(found.values) == {"fd", "kid", "precision", "recall", "f1", "density", "coverage", "is"}
    for name, value in found.values.items():
        assert value.low <= value.value <= value.high
        assert (value.real_vs_real is None) == (name == "is")
    baseline = found.values["fd"].real_vs_real
    assert baseline is not None
    assert baseline < found.values["fd"].low
    card = found.cards["recall"]
    assert (card.n_generated, card.n_real, card.settings, card.extractor) == (200, 500, (("k", 3),), "none")


def test_measuring_again_gives_the_same_numbers(files: tuple[Path, Path]) -> None:
    assert measure(*files, "none").json() == measure(*files, "none").json()


def test_too_few_real_samples_for_a_real_vs_real_value_give_a_warning_and_fewer_generated_do_not(
    files: tuple[Path, Path],
) -> None:
    generated, real = files
    found = measure(real, generated, "none", ["fd"])
    assert found.values["fd"].real_vs_real is None
    assert any("no real-vs-real" in warning for warning in found.warnings)
    assert measure(real, generated, "none", ["fd"], images=100).values["fd"].real_vs_real is not None


def test_few_samples_get_warnings_and_no_interval(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", draw(6, 1))
    found = measure(tmp_path / "a.npy", tmp_path / "a.npy", "none", ["fd", "kid"]).json()
    assert found["fd"]["ci_low"] is None
    text = " ".join(found["card"]["warnings"])
    for part in ("singular covariance", "usual subset", "no interval"):
        assert part in text


@pytest.mark.parametrize("metric", ["fd", "kid", "precision", "recall", "coverage"])
def test_intervals_are_at_least_as_wide_as_fresh_samples_scatter(metric: str) -> None:
    """Too wide for coverage, which is not smooth: on the safe side."""
    features = draw(300, 0)
    real = Real.of(Features(features), [metric])

    def values(given: Features) -> dict[str, float]:
        return {name: measured.value for name, measured in compute([metric], given, real).items()}

    samples = [Features(draw(300, seed, 0.1)) for seed in range(100, 200)]
    scatter = np.std([values(sample)[metric] for sample in samples], ddof=1)
    halves = [half_widths(values, sample, features)[metric] for sample in samples[:30]]
    widest = 2.0 if metric == "coverage" else 1.5
    assert 0.8 < np.mean(halves) / (2.26 * scatter) < widest  # 2.26: Student's t, ten groups


def test_kid_between_groups_equals_kid_of_what_is_left() -> None:
    real, sample = draw(150, 0), Features(draw(90, 1, 0.2))
    plain = half_widths(lambda kept: {"plain": kid(kept.features, real).value}, sample, real)
    assert plain["kid"] == pytest.approx(plain["plain"], rel=1e-8)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["fid"], "means Inception features"),
        (["accuracy"], "needs a label of every generated sample"),
        (["nll"], "not measured here"),
        (["recal"], "there are fd"),
    ],
)
def test_metrics_that_cannot_be_had_are_named(files: tuple[Path, Path], metrics: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure(*files, "none", metrics)


def test_inception_score_needs_logits(files: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="logits"):
        measure(files[1], files[1], "none", ["is"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (lambda: {"features": np.ones((1, WIDTH))}, r"other\.npz holds 1 sample"),
        (lambda: {"features": np.ones((9, 2))}, r"other\.npz has features of width 2, .*real\.npz of 6"),
    ],
)
def test_sides_that_do_not_fit_are_named(
    files: tuple[Path, Path], arrays: Callable[[], dict[str, np.ndarray]], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "other.npz", **arrays())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        measure(tmp_path / "other.npz", files[1], "none")


def test_pictures_are_measured_by_a_network_of_ones_own(tmp_path: Path) -> None:
    real = digits()
    network = SmallNetwork.train(real.train, real.train_labels, seed=0, epochs=3)
    network.save(tmp_path / "net.safetensors")
    np.save(tmp_path / "held_out.npy", real.held_out)
    np.save(tmp_path / "train.npy", real.train)
    found = measure(tmp_path / "held_out.npy", tmp_path / "train.npy", str(tmp_path / "net.safetensors"), seeds=[0])
    assert found.cards["fd"].extractor_digest == network.digest
    assert found.values["is"].value > 2
    assert found.values["precision"].value > 0.8


def test_only_json_is_on_stdout(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(capsys, monkeypatch, "measure", *files, "--extractor", "none", "--metrics", "fd,kid", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"fd", "kid", "card"}
    assert set(found["fd"]) == {"value", "ci_low", "ci_high", "real_vs_real"}
    assert "jackknife" in found["card"]["interval"]
    assert "warning: kid" in err


def test_the_default_output_is_a_table(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, "measure", *files, "--extractor", "none", "--seeds", "4")
    assert code == 0
    for word in ("recall", "95 % interval", "real_vs_real", "k=3", "seeds [4]"):
        assert word in out


def test_wrong_weights_end_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, "weights", "verify", "--folder", tmp_path, "--json")
    assert code == 0
    assert {entry["status"] for entry in json.loads(out)} == {"absent"}
    (tmp_path / "vgg16-397923af.pth").write_bytes(b"not weights")
    code, _, err = run(capsys, monkeypatch, "weights", "verify", "--folder", tmp_path)
    assert code == 2
    assert "vgg16-397923af.pth" in err


@pytest.mark.parametrize("text", ["", "1,", "a", "1.5"])
def test_seeds_are_whole_numbers(text: str) -> None:
    with pytest.raises(UserError, match="seeds"):
        numbers(text)
