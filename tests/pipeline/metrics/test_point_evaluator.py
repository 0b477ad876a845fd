"""Evaluation of points from exactly known mixtures, stage by stage."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from methods.core.density import mog25
from pipeline.data.artifacts import Artifact
from pipeline.data.shards import Pictures, write_pictures
from pipeline.errors import UserError
from pipeline.metrics.card import METRICS_FILE, Card, MetricValue
from pipeline.metrics.evaluate import evaluator_of
from pipeline.metrics.evaluator import Evaluator, read_real_vs_real, result_rows
from pipeline.metrics.sensitivity import SENSITIVITY_FILE
from pipeline.stages.evaluate import Item, measure
from pipeline.store.publish import new_artifact
from tests.support.stages import run_stage_alone

NAMES = {"hq", "modes", "mode_kl", "energy", "frechet_2d", "precision", "recall"}
N = 2000


class World(NamedTuple):
    data: Artifact
    features: Artifact
    evaluator: Evaluator


def world_of(folder: Path, images: int = N, **options: float) -> World:
    config = {"source": "mog25", "options": {"per_mode": 300, "held_out": N} | options}
    data = run_stage_alone("prepare", config, {}, folder / "prepare")
    features = run_stage_alone("features", {"images": images}, {"data": data}, folder / "features")
    return World(data, features, evaluator_of(data.path, features.path))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_of(tmp_path_factory.mktemp("world"))


def stored(raw: np.ndarray) -> Pictures:
    """As a sampler leaves them: in model coordinates."""
    return unlabelled((raw - 10) * 0.5)


def unlabelled(points: np.ndarray) -> Pictures:
    return Pictures(points.astype(np.float32), np.full(len(points), -1), np.arange(len(points)))


def real(count: int = N, seed: int = 9) -> np.ndarray:
    return mog25.draws(count, seed).double().numpy()


def by_name(found: dict[Card, MetricValue]) -> dict[str, float]:
    return {card.metric: measured.value for card, measured in found.items()}


def test_other_real_points_have_the_real_vs_real_values_and_a_blob_does_not(world: World) -> None:
    stored_values = read_real_vs_real(world.features.path)
    assert stored_values == world.evaluator.real_vs_real(N)
    expected = {card.metric: value for card, value in stored_values.items()}
    assert set(expected) == NAMES
    found = by_name(world.evaluator.measure(stored(real())))
    assert found["modes"] == expected["modes"] == 25
    assert found["hq"] == pytest.approx(expected["hq"], abs=0.015)
    assert found["precision"] == pytest.approx(expected["precision"], abs=0.03)
    assert found["recall"] == pytest.approx(expected["recall"], abs=0.03)
    assert found["mode_kl"] < 0.02
    assert abs(found["energy"]) < 0.05
    mean, covariance = (part.numpy() for part in mog25.moments())
    blob = by_name(world.evaluator.measure(stored(np.random.default_rng(0).multivariate_normal(mean, covariance, N))))
    assert blob["frechet_2d"] < 1
    assert blob["modes"] < 3
    assert blob["hq"] < 0.25
    assert blob["mode_kl"] > 2
    assert blob["energy"] > 0.05
    assert blob["precision"] < 0.4


def test_the_frechet_distance_is_of_raw_coordinates_against_the_training_points(world: World) -> None:
    """All points on one centre: |m - (10, 10)|^2 + trace of the training covariance."""
    found = by_name(world.evaluator.measure(stored(np.tile([20.0, 20.0], (N, 1)))))
    covariance = np.trace(np.cov(mog25.points(300).double().numpy(), rowvar=False))
    assert found["frechet_2d"] == pytest.approx(200 + covariance, rel=1e-3)


def test_values_mean_the_same_for_any_model_coordinates(world: World, tmp_path: Path) -> None:
    other = world_of(tmp_path, centre=0.0, scale=1.0)
    raw = real(500)
    theirs = by_name(other.evaluator.measure(unlabelled(raw)))
    assert by_name(world.evaluator.measure(stored(raw))) == pytest.approx(theirs, abs=2e-3)


def test_every_value_has_a_card_with_its_reference(world: World) -> None:
    cards = {card.metric: card for card in world.evaluator.measure(stored(real(300)))}
    assert {cards[name].reference for name in ("hq", "modes", "mode_kl")} == {"law"}
    assert {cards[name].reference for name in ("energy", "precision", "recall")} == {"held_out"}
    assert (cards["frechet_2d"].reference, cards["frechet_2d"].n_real) == ("train", 300 * 25)
    assert {card.n_generated for card in cards.values()} == {300}
    assert {card.extractor for card in cards.values()} == {"coordinates"}


def test_more_points_than_are_held_out_have_no_real_vs_real_values_and_a_warning(world: World) -> None:
    assert world.evaluator.real_vs_real(N + 1) == {}
    (row, *_) = result_rows([world.evaluator.measure(stored(real(300)))], {})
    assert row["real_vs_real"] is None
    assert any("fewer samples are held out" in warning for warning in row["warnings"])


def test_values_at_another_n_than_the_real_vs_real_ones_are_refused(world: World) -> None:
    with pytest.raises(UserError, match=r"n=300/.*for n = \[2000\]\. Set evaluate\.images"):
        result_rows([world.evaluator.measure(stored(real(300)))], read_real_vs_real(world.features.path))


def test_evaluate_writes_values_real_vs_real_and_warnings_and_measures_no_set_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of(tmp_path / "world", images=300)
    with new_artifact(tmp_path / "sample", "sample", "gan", {}, {}) as draft:
        for number in range(2):
            write_pictures(draft.path, f"samples-{number}", stored(real(300, seed=number)))
        draft.facts.update(nfe=4.0, guide_calls=0.0, images=600)
        draft.seeds.update({f"samples-{number}": [number, number + 1] for number in range(2)})
    inputs = {"prepare": world.data, "features": world.features, "samples": draft.artifact}
    measured: list[str] = []

    def interrupted(item: Item) -> dict[Card, MetricValue]:
        measured.append(item.split)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure(item)

    monkeypatch.setattr("pipeline.stages.evaluate.measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_stage_alone("evaluate", {}, inputs, tmp_path / "evaluate")
    out = run_stage_alone("evaluate", {}, inputs, tmp_path / "evaluate")
    assert measured == ["samples-0", "samples-1", "samples-1"]
    undisturbed = run_stage_alone("evaluate", {}, inputs, tmp_path / "again" / "evaluate")
    assert out.manifest.files == undisturbed.manifest.files
    content = json.loads((out.path / METRICS_FILE).read_text())
    assert content["sets"] == ["samples-0", "samples-1"]
    rows = {row["metric"]: row for row in content["metrics"]}
    assert set(rows) == NAMES
    assert all(len(row["values"]) == 2 and np.isfinite(row["real_vs_real"]) for row in rows.values())
    assert "fewer than 20 each" in rows["modes"]["warnings"][0]
    assert rows["hq"]["warnings"] == []


def test_every_seeded_fault_is_detected_on_a_mixture_and_clean_data_raise_no_alarm(
    world: World, tmp_path: Path
) -> None:
    out = run_stage_alone(
        "check-metrics", {"images": 500}, {"data": world.data, "features": world.features}, tmp_path / "i"
    )
    found = json.loads((out.path / SENSITIVITY_FILE).read_text())
    assert [case["fault"] for case in found["findings"] if not case["detected"]] == []
    assert len(found["findings"]) == 6
    assert found["clean_alarms"] <= 1
    assert set(found["resolving_power"]) == NAMES
    assert found["all_faults_detected"]
