"""How long a stage will take: recorded, scaled by the rule, or by the rule alone; and the time left."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.study import Study, load_study
from pipeline.dag import estimates
from pipeline.dag.estimates import Estimates, TimeLeft, by_rule, time_text
from pipeline.dag.graph import STAGES
from tests.support.toy_study import PARAMS, ROOT


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("TRILEMMA_STORE", str(tmp_path / "store"))
    (tmp_path / "params.yaml").write_text(PARAMS.replace("root: ../..", f"root: {ROOT}"))
    return load_study(tmp_path / "params.yaml")


def longer(study: Study, **model: object) -> Study:
    run = study.runs["toy"]
    return replace(study, runs={"toy": replace(run, train=run.train | {"steps": 480}, model=run.model | model)})


def test_by_the_rule_more_steps_and_a_u_net_take_longer(study: Study) -> None:
    short, long, u_net = (
        by_rule(STAGES["pretrain"].call(one, "toy")) - estimates.OTHER
        for one in (study, longer(study), longer(study, net="song-unet"))
    )
    assert long == pytest.approx(2 * short)
    assert u_net > 5 * long
    plain, guided = (by_rule(STAGES["sample"].call(study, name)) for name in ("toy", "toy-dg"))
    assert guided > plain


def test_a_recorded_stage_takes_as_long_again_and_longer_with_more_steps(study: Study) -> None:
    tables = study.folder / "reports" / "tables"
    tables.mkdir(parents=True)
    rows = "pretrain,toy,70,50,100,False\nsample,toy,9,,100,True\nevaluate,toy,6,,100,False\n"
    (tables / "cost.csv").write_text(f"stage,name,seconds,cpu_seconds,peak_memory_mib,resumed\n{rows}")
    found = Estimates(study)
    assert found.of_command("trilemma pretrain toy") == (50.0, 100)
    assert found.of_command("trilemma evaluate toy") == (6.0, 100)
    assert found.of_command("trilemma sample toy").peak_mib == 0  # what a resumed one took is not known
    changed = found.of(STAGES["pretrain"].call(longer(study), "toy"))
    assert 50.0 < changed.seconds <= 100.0
    assert found.of_command("trilemma report").seconds > found.of_command("cat one two").seconds


def test_the_time_left_is_due_after_a_minute_and_follows_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("pipeline.dag.estimates.time.monotonic", lambda: now[0])
    left = TimeLeft()
    left.note(predicted=10.0, taken=20.0)
    now[0] = 59.0
    assert left.due([(30.0, 0.0)], 30.0, 2) is None
    now[0] = 60.0
    assert left.due([(30.0, 10.0), (50.0, 0.0)], 20.0, 2) == 75.0  # twice as slow as predicted, two at a time
    assert left.due([], 0.0, 2) is None
    now[0] = 120.0
    assert left.due([(10.0, 0.0)], 40.0, 2) == 80.0  # a chain is no shorter for two
    assert [time_text(80.0), time_text(150.0)] == ["80 s", "2 min"]
