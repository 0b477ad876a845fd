"""What a stage will take is known before it runs, and how right that was is known afterwards."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.build import build_method
from pipeline.config.study import load_study
from pipeline.dag.graph import STAGES
from pipeline.dag.plan import plan
from pipeline.dag.plan_inputs import stand_in
from pipeline.dag.plan_meter import Spent, first_of, tile
from pipeline.dag.plan_probe import Cost, cost_of
from pipeline.data.artifacts import Artifact
from pipeline.errors import ConfigError
from pipeline.sampling.counting import counting
from pipeline.training.networks import data_spec
from tests.support.toy_study import ToyStudy

ROOT = Path(__file__).parents[3]
ALL = 1e9  # MiB


@pytest.fixture
def data(tmp_path: Path) -> Artifact:
    return stand_in(STAGES["prepare"](load_study(ROOT / "params.yaml"), "digits"), {}, tmp_path / "digits")


def training(data: Artifact, limit_mib: float = ALL, width: int = 32, **train: Any) -> Cost:
    study = load_study(ROOT / "params.yaml")
    study.runs["edm-mlp-digits"].model.update(width=width)
    study.runs["edm-mlp-digits"].train.update(train)
    return cost_of(STAGES["pretrain"](study, "edm-mlp-digits"), {"data": data}, limit_mib, seconds=0.1)


def test_data_that_are_not_prepared_are_stood_in_for_by_their_own_records(data: Artifact) -> None:
    facts = data.manifest.facts
    assert (facts["train"], facts["held_out"], facts["records"]) == (1297, 500, 1797)
    assert (facts["shape"], facts["classes"]) == ([1, 8, 8], 10)


def test_operations_and_evaluations_grow_with_steps_and_batch(data: Artifact) -> None:
    few, more = training(data, steps=200, batch=64), training(data, steps=400, batch=128)
    assert few.evaluations == 200 * 64
    assert more.evaluations == 400 * 128
    assert few.flops is not None
    assert more.flops == pytest.approx(4 * few.flops, rel=0.02)
    assert few.spent.cpu > 0


def test_a_batch_beyond_the_limit_is_not_tried_but_its_need_is_known(data: Artifact) -> None:
    whole = training(data, batch=1280, width=640)
    guessed = training(data, batch=1280, width=640, limit_mib=whole.mib / 2)
    assert whole.mib > 50
    assert guessed.mib == pytest.approx(whole.mib, rel=0.25)
    assert guessed.flops == whole.flops


def test_a_tile_is_counted_as_sampling_counts_and_need_not_be_finished(data: Artifact) -> None:
    method, spec = build_method("edm.EDM", {"net": "mlp", "width": 16, "depth": 1}), data_spec(data.manifest.facts)
    nets, sampling = method.build(spec), method.Sampling(steps=40)
    one = first_of(method, nets, sampling, spec.classes)
    with counting({"nfe": list(nets.values())}) as rows:
        one()
    cut = tile(one, one, nets, seconds=0.0)
    assert tile(one, one, nets, seconds=0.5).calls == cut.calls == rows["nfe"] == 79
    assert cut.flops == pytest.approx(tile(one, one, nets, seconds=0.5).flops)


def test_spent_seconds_add_up() -> None:
    assert Spent(1.0, 2.0).plus(Spent(3.0, 4.0), 2.0) == Spent(7.0, 10.0)
    assert Spent(3.0, 4.0).since(Spent(1.0, 1.0)).times(2.0) == Spent(4.0, 6.0)


def test_what_is_in_the_store_costs_nothing(reproduced: ToyStudy) -> None:
    found = plan(reproduced.folder, None, None)
    assert {row["state"] for row in found["stages"]} == {"reused"}
    assert found["total"]["cpu_seconds"] == 0
    assert found["past"] == {"stages": [], "median_error": None, "median_error_long": None}


def test_an_unknown_target_is_named_with_the_nearest(reproduced: ToyStudy) -> None:
    with pytest.raises(ConfigError, match="did you mean 'toy-dg'"):
        plan(reproduced.folder, "toy-gd", None)


def test_a_prediction_says_what_does_not_fit_and_later_how_wrong_it_was(tmp_path: Path) -> None:
    toy = ToyStudy.build(tmp_path / "house")
    first = json.loads(toy.run("plan", "digits", "--memory-limit", "100", "--json").stdout)
    assert first["memory_limit_mib"] == 100
    assert first["does_not_fit"] == ["prepare digits", "features digits", "immune digits"]
    assert all(row["cpu_seconds"] > 0 and row["memory_mib"] > 100 for row in first["stages"])
    toy.run("prepare", "digits")
    then = json.loads(toy.run("plan", "digits", "--json").stdout)
    assert [row["state"] for row in then["stages"]] == ["reused", "run", "run"]
    assert then["does_not_fit"] == []
    (past,) = then["past"]["stages"]
    assert past["predicted"] == first["stages"][0]["cpu_seconds"]
    assert past["error"] == pytest.approx(past["predicted"] / past["measured"] - 1, abs=1e-3)
    assert then["past"]["median_error"] == abs(past["error"])
