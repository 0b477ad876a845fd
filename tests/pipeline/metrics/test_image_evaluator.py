"""Evaluation of pictures: with the small network, and with Inception where its weights are on this machine."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.random_inception import write_random_inception
from pipeline.config.study import Study, load_study
from pipeline.dag.graph import STAGES
from pipeline.data.artifacts import Artifact, key_of
from pipeline.data.shards import Pictures, write_pictures
from pipeline.errors import ConfigError, UserError
from pipeline.metrics.card import Card, MetricValue
from pipeline.metrics.evaluate import evaluator_of
from pipeline.metrics.evaluator import Evaluator, read_real_vs_real
from pipeline.metrics.features.weights import INCEPTION, KNOWN, WeightsFile
from pipeline.store.publish import new_artifact
from tests.support.digits import digits
from tests.support.stages import run_stage_alone

ROOT = Path(__file__).parents[3]
OWN = {"fd", "kid", "precision", "recall", "f1", "density", "coverage"}
PIXELS = {"precision", "recall", "nn_distance"}
PARAMS = "root: {root}\ndatasets: {{digits: {{source: digits, features: {{inception: {wanted}}}}}}}\n"


def prepared(folder: Path, train: int, held_out: int, labelled: bool = True) -> Artifact:
    real = digits()
    sides = {
        "train": (real.train, real.train_labels, train),
        "held_out": (real.held_out, real.held_out_labels, held_out),
    }
    with new_artifact(folder, "prepare", "some", {}, {}) as draft:
        for split, (images, labels, n) in sides.items():
            kept = labels[:n] if labelled else np.full(n, -1)
            write_pictures(draft.path, split, Pictures(images[:n], kept.astype(np.int64), np.arange(n)))
        draft.facts.update(shape=[1, 8, 8], classes=10 if labelled else 0)
    return draft.artifact


def evaluator(folder: Path, data: Artifact, **config: int | str) -> Evaluator:
    features = run_stage_alone("features", {"epochs": 2, "images": 20} | config, {"data": data}, folder / "features")
    return evaluator_of(data.path, features.path)


def named(found: dict[Card, MetricValue], extractor: str) -> dict[str, MetricValue]:
    return {card.metric: measured for card, measured in found.items() if card.extractor == extractor}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """SHA-256 of random weights, recorded as the published ones."""
    import hashlib

    name = KNOWN[INCEPTION].file_names[0]
    (tmp_path / "weights").mkdir()
    file = write_random_inception(tmp_path / "weights" / name)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setenv("TRILEMMA_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setitem(KNOWN, INCEPTION, WeightsFile((name,), "", sha256))
    return sha256


def study_of(folder: Path, wanted: str) -> Study:
    (folder / "params.yaml").write_text(PARAMS.format(root=ROOT, wanted=wanted))
    return load_study(folder / "params.yaml")


def test_the_small_network_gives_all_metrics_and_doubtful_ones_have_a_warning(tmp_path: Path) -> None:
    evaluated = evaluator(tmp_path, prepared(tmp_path / "data", 300, 100))
    samples = evaluated.held_out.take(slice(30))
    found = evaluated.measure(samples)
    assert {card.extractor for card in found} == {"small-cnn", "pixels", "svm-rbf"}
    assert set(named(found, "small-cnn")) == OWN
    assert set(named(found, "pixels")) == PIXELS
    ours = named(found, "small-cnn")
    assert "singular covariance" in ours["fd"].warnings[0]
    assert "fewer than the 1000" in ours["kid"].warnings[0]
    p, r = ours["precision"].value, ours["recall"].value
    assert ours["f1"].value == pytest.approx(2 * p * r / (p + r))
    threes = evaluated.held_out.take(evaluated.held_out.labels == 3)
    assert (
        "no picture was generated for classes [0, 1, 2"
        in named(evaluated.measure(threes), "svm-rbf")["accuracy"].warnings[0]
    )
    assert read_real_vs_real(tmp_path / "features") == evaluated.real_vs_real(20)
    real_vs_real = evaluated.real_vs_real(100)
    assert {card.metric for card in real_vs_real} == {card.metric for card in found}
    assert all(np.isfinite(value) for value in real_vs_real.values())


def test_data_too_large_for_the_support_vector_machine_are_classified_by_the_small_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.metrics.image_evaluator.MAX_SVM_PIXELS", 1000)
    evaluated = evaluator(tmp_path, prepared(tmp_path / "data", 300, 100))
    threes = evaluated.held_out.take(evaluated.held_out.labels == 3)
    ((card, found),) = ((c, m) for c, m in evaluated.measure(threes).items() if c.metric == "accuracy")
    assert card.extractor == "small-cnn"
    assert "for classes [0, 1, 2" in found.warnings[0]


def test_unlabelled_pictures_are_measured_in_pixels_and_have_clusters_for_classes(tmp_path: Path) -> None:
    evaluated = evaluator(tmp_path, prepared(tmp_path / "data", 60, 40, labelled=False))
    found = evaluated.measure(evaluated.held_out)
    assert {card.extractor for card in found} == {"pixels"}
    assert {card.metric for card in found} == OWN | PIXELS
    assert len(np.unique(evaluated.classes(evaluated.train.read()))) == 10


def test_weights_on_this_machine_are_a_setting_of_the_call_and_enter_its_key(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path, "auto")
    with_weights = STAGES["features"].call(study, "digits")
    monkeypatch.setenv("TRILEMMA_WEIGHTS", str(tmp_path / "nothing"))
    without = STAGES["features"].call(study, "digits")
    assert (with_weights.config, without.config) == (
        {"images": 500, "inception": weights},
        {"images": 500, "inception": None},
    )
    keys = {key_of("features", call.config, {}, "") for call in (with_weights, without)}
    assert len(keys) == 2
    with pytest.raises(ConfigError, match="auto was wanted"):
        STAGES["features"].call(study_of(tmp_path, "yes"), "digits")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / KNOWN[INCEPTION].file_names[0]).write_bytes(b"other")
    with pytest.raises(UserError, match="SHA-256"):
        STAGES["features"].call(study, "digits")


@pytest.mark.slow
def test_with_weights_there_are_fid_sfid_and_the_inception_score(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = evaluator(tmp_path, prepared(tmp_path / "data", 40, 24), inception=weights)
    found = named(evaluated.measure(evaluated.held_out), INCEPTION)
    assert set(found) == {"fid", "sfid", "is", "kid", "precision", "recall", "f1", "density", "coverage"}
    assert all(np.isfinite(measured.value) for measured in found.values())
    assert all("singular covariance" in found[name].warnings[0] for name in ("fid", "sfid"))
    cards = {card.metric: card for card in evaluated.measure(evaluated.held_out) if card.extractor == INCEPTION}
    assert cards["sfid"].layer == "spatial-7x17x17"
    assert cards["fid"].reference == "train"
    monkeypatch.setenv("TRILEMMA_WEIGHTS", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="trilemma weights fetch"):
        evaluator_of(tmp_path / "data", tmp_path / "features")
