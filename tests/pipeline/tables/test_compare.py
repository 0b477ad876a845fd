"""`trilemma compare`: verdicts by shared seeds, one table, and the way to the same runs in MLflow."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest

from pipeline.cli import main as cli
from pipeline.config.study import Study
from pipeline.console import TABLE_WIDTH
from pipeline.errors import UserError
from pipeline.metrics.card import Card
from pipeline.tables.compare import compare
from tests.pipeline.tables.test_aggregate import CARD, EFFECT, SETS, study, write
from tests.support.toy_study import ToyStudy

__all__ = ["study"]  # a fixture


def changed(**fields: Any) -> Card:
    return replace(CARD, **fields)


def command(study: Study, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.chdir(study.folder)
    monkeypatch.setattr("sys.argv", ["trilemma", "compare", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_each_is_compared_with_the_first_over_shared_training_seeds(study: Study) -> None:
    found = compare(study, ["x", "x-dg", "longer"])
    first, guided, longer = found.rows
    assert (first.run, first.value, first.difference, first.verdict) == ("x", pytest.approx(4.1), None, None)
    assert (guided.run, guided.difference, guided.verdict) == ("x-dg", pytest.approx(EFFECT), "better")
    assert guided.scope == "for the method, 3 training seeds"
    assert (longer.difference, longer.verdict, longer.scope) == (0.0, "not resolvable", "for this checkpoint")
    assert (first.train_seeds, longer.train_seeds, longer.sample_seeds) == (3, 1, 3)


def test_the_other_way_round_the_verdict_turns(study: Study) -> None:
    found = compare(study, ["x-dg", "x"]).rows[1]
    assert (found.difference, found.verdict) == (pytest.approx(-EFFECT), "worse")


def test_training_seeds_that_are_not_evaluated_yet_are_left_out_with_a_note(study: Study) -> None:
    shutil.rmtree(study.folder / "out" / "evaluate" / "x-s2-dg")
    found = compare(study, ["x", "x-dg"])
    assert "x-dg without its training seeds x-s2-dg: not evaluated yet" in found.notes
    assert found.rows[1].train_seeds == 2


def test_other_cards_are_refused_unless_the_field_is_named(study: Study) -> None:
    write(study, "longer", [1.0, 1.1, 1.2], changed(n_generated=400))
    with pytest.raises(UserError, match=r"x and longer: cards .* n_generated: 500 against 400; --apart-from FIELD"):
        compare(study, ["x", "longer"])
    assert compare(study, ["x", "longer"], ["n_generated"]).rows[1].verdict == "better"
    with pytest.raises(UserError, match="n_generated: 500 against 400"):
        compare(study, ["x", "longer"], ["n_real"])


def test_runs_without_a_common_metric_are_refused(study: Study) -> None:
    write(study, "longer", [1.0, 1.1, 1.2], changed(metric="kid"))
    with pytest.raises(UserError, match="no metric in common"):
        compare(study, ["x", "longer"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x"], "x came, at least two different runs were wanted"),
        (["x", "x"], "x x came, at least two different runs were wanted"),
        (["x", "longr"], "no run or guided entry named 'longr' in params.yaml (did you mean 'longer'?)"),
        (["x", "again"], "again is not evaluated yet: run it first (dvc repro evaluate@again)"),
        (["x", "x-s1"], "x and x-s1 differ in the training seed alone"),
        (["x", "longer", "--apart-from", "size"], "a card has no field size"),
        (["x", "longer", "--apart-from", "n_real"], "share no set of samples"),
    ],
)
def test_what_cannot_be_compared_ends_with_code_2_and_one_line(
    words: list[str], message: str, study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(study.folder / "out" / "evaluate" / "again")
    write(study, "longer", [1.0], sets=("samples-9",))
    assert command(study, monkeypatch, *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_people_get_one_table_and_json_is_all_there_is_on_stdout(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(study, "longer", [1.0], sets=SETS[:1])
    assert command(study, monkeypatch, "x-dg", "x", "longer") == 0
    out, err = capsys.readouterr()
    for word in ("less x-dg", "fd (small-cnn)", "worse", "not resolvable", "nfe", "counted", "3 x 3", "for the method"):
        assert word in out
    assert max(map(len, out.splitlines())) <= TABLE_WIDTH
    assert "no MLflow page" in err
    assert command(study, monkeypatch, "x-dg", "x", "longer", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == ["x-dg", "x", "longer"]
    assert found["rows"][2]["difference_low"] is None  # one shared set has no interval
    assert found["counts"]["x"]["nfe"] == 9


def test_a_real_study_is_compared_with_a_link_to_its_runs(reproduced: ToyStudy) -> None:
    found = json.loads(reproduced.run("compare", "toy", "toy-dg", "--json").stdout)
    metrics = {(row["metric"], row["card"].partition("@")[0]) for row in found["rows"]}
    assert {("fd", "small-cnn"), ("recall", "pixels"), ("accuracy", "svm-rbf")} <= metrics
    assert all(row["scope"] == "for this checkpoint" for row in found["rows"] if row["run"] == "toy-dg")
    page, _, query = found["mlflow"].partition("?")
    assert page == "http://127.0.0.1:5000/#/compare-runs"
    given = parse_qs(query)
    assert given.pop("workflowType") == ["machine_learning"]
    asked = {name: json.loads(values[0]) for name, values in given.items()}
    with closing(sqlite3.connect(reproduced.house / "mlflow.db")) as database:
        kept = {
            run: (name, str(home))
            for run, name, home in database.execute("SELECT run_uuid, name, experiment_id FROM runs")
        }
    names, homes = zip(*(kept[run] for run in asked["runs"]))
    assert names == ("evaluate toy", "evaluate toy-dg")
    assert asked["experiments"] == sorted({*homes})
