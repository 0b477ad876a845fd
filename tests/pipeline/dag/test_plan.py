"""The state, seconds and memory of every stage before it runs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.study import load_study
from pipeline.dag.plan import Clock, Extrapolated, plan
from pipeline.dag.resolve import past_costs
from pipeline.errors import ConfigError
from pipeline.store.open import open_store
from tests.support.toy_study import ToyStudy


def test_stored_stages_have_the_seconds_and_memory_of_their_computation(
    reproduced: ToyStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRILEMMA_STORE", str(reproduced.store))
    study = load_study(reproduced.folder / "params.yaml")
    rows, costs = plan(study, None), past_costs(open_store(study))
    assert {row["state"] for row in rows} == {"stored"}
    for row in rows:
        seconds, mib = costs[row["stage"], row["name"]]
        assert (row["seconds"], row["memory_mib"], row["source"]) == (round(seconds, 2), mib, "ledger")
        assert mib > 50


def test_an_unknown_target_is_named_with_the_nearest(reproduced: ToyStudy) -> None:
    with pytest.raises(ConfigError, match="did you mean 'toy-dg'"):
        plan(load_study(reproduced.folder / "params.yaml"), "toy-gd")


def test_a_changed_stage_is_to_compute_as_long_as_before(reproduced: ToyStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRILEMMA_STORE", str(reproduced.store))
    study = load_study(reproduced.folder / "params.yaml")
    run = study.runs["toy"]
    other = replace(study, runs={"toy": replace(run, sample={"steps": 4})})
    states = {row["stage"]: (row["state"], row["source"]) for row in plan(other, "toy")}
    assert states["pretrain"] == ("stored", "ledger")
    assert states["sample"] == states["evaluate"] == ("to compute", "ledger")


def test_trainings_and_samplings_that_never_ran_are_timed(tmp_path: Path) -> None:
    toy = ToyStudy.build(tmp_path / "house")
    toy.run("prepare", "digits")
    rows = {row["stage"]: row for row in json.loads(toy.run("plan", "toy", "--json").stdout)}
    assert rows["prepare"]["state"] == "stored"
    assert rows["prepare"]["source"] == "ledger"
    rows |= {row["stage"]: row for row in json.loads(toy.run("plan", "dg-toy", "--json").stdout)}
    for stage in ("pretrain", "generate", "sample"):
        assert (rows[stage]["state"], rows[stage]["source"]) == ("to compute", "trial")
        assert 0 < rows[stage]["seconds"] < 60
        assert rows[stage]["memory_mib"] > 100
    assert rows["evaluate"]["seconds"] is None  # neither a training nor a sampling, and never computed
    assert "of them take about" in toy.run("plan", "toy").stdout


def test_a_training_is_ended_after_a_few_seconds_and_scaled_to_all_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 3.0, 4.0, 5.0, 6.0])  # a slow first step, then one second each
    clock = Clock(lambda step: step, steps=100)
    with monkeypatch.context() as patched:
        patched.setattr("time.perf_counter", lambda: next(now))
        assert [clock(step) for step in (0, 0, 1, 2, 3)] == [0, 0, 1, 2, 3]
        with pytest.raises(Extrapolated) as measured:
            clock(4)
    assert measured.value.args == (100.0,)
