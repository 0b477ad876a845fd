"""A sweep by the command people use: nothing twice, everything tracked, tables as the study itself would make them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.pipeline.toy_study import ToyStudy

WEIGHTS = ("--of", "toy-dg", "--values", "0,1,4", "--seeds", "2")
TRUNK = {"prepare", "features", "pretrain", "generate", "discriminate"}


@pytest.fixture(scope="module")
def swept(reproduced: ToyStudy, tmp_path_factory: pytest.TempPathFactory) -> ToyStudy:
    """A sweep of guidance weights after `dvc repro`. Look only."""
    toy = reproduced.with_store(tmp_path_factory.mktemp("swept") / "house")
    toy.run("sweep", "dg-weight", *WEIGHTS)
    return toy


def table(toy: ToyStudy, name: str) -> pd.DataFrame:
    return pd.read_csv(toy.folder / "reports" / "tables" / f"{name}.csv", keep_default_na=False, na_values=[""])


def computed(toy: ToyStudy) -> list[str]:
    return [str(event["stage"]) for event in toy.events() if event["event"] == "computed" and "sweep" in event]


def test_a_dry_run_says_what_would_run_and_runs_nothing(reproduced: ToyStudy, tmp_path: Path) -> None:
    toy = reproduced.with_store(tmp_path / "house")
    events = toy.events()
    told: dict[str, Any] = json.loads(toy.run("sweep", "dg-weight", *WEIGHTS, "--dry-run", "--json").stdout)
    assert [point["weight"] for point in told["points"]] == [0, 1, 4]
    assert {stage["stage"] for stage in told["reused"]} == {*TRUNK, "sample", "evaluate"}  # weight 1 is the study's own
    assert [stage["stage"] for stage in told["run"]] == ["sample", "evaluate", "sample", "evaluate"]
    assert all(stage["seconds"] > 0 for stage in told["run"])
    assert [stage["key"] is None for stage in told["run"]] == [False, True, False, True]  # its input is not there yet
    assert toy.events() == events
    assert not (toy.house / "mlflow.db").exists()


def test_only_what_a_sweep_changes_is_computed_and_all_of_it_is_tracked(swept: ToyStudy) -> None:
    assert sorted(computed(swept)) == ["evaluate", "evaluate", "sample", "sample"]
    assert swept.tracked() == [
        ("sweep dg-weight", "FINISHED"),
        *((f"toy-dg weight={weight} s0", "FINISHED") for weight in (0, 1, 4)),
    ]
    assert swept.left_behind() == []
    assert not (swept.house / ".trilemma/sweeps/toy/dg-weight/results").exists()


def test_the_table_has_every_point_as_the_study_itself_measures_it(swept: ToyStudy) -> None:
    found = table(swept, "dg-weight")
    assert list(dict.fromkeys(found.weight)) == [0, 1, 4]
    assert set(found.train_seeds) == {1}
    assert set(found.sample_seeds) == {2}
    own = table(swept, "digits")
    own = own[own.guidance == "toy-dg"].reset_index(drop=True)
    ours = found[found.weight == 1].reset_index(drop=True)
    for column in ("metric", "value", "ci_low", "ci_high", "floor", "card"):
        assert ours[column].equals(own[column]), column
    assert (swept.folder / "reports/sweeps/dg-weight.png").stat().st_size > 0


def test_a_sweep_that_was_done_computes_nothing_and_stays_one_in_the_tracker(swept: ToyStudy, tmp_path: Path) -> None:
    before = swept.tracked(), computed(swept), table(swept, "dg-weight")
    told = json.loads(swept.run("sweep", "dg-weight", *WEIGHTS, "--resume", "--json").stdout)
    assert told["trials"] == ["toy-dg weight=0 s0", "toy-dg weight=1 s0", "toy-dg weight=4 s0"]
    assert swept.tracked() == before[0]
    assert computed(swept) == before[1]
    assert table(swept, "dg-weight").equals(before[2])


def test_resuming_what_changed_says_what_changed(swept: ToyStudy) -> None:
    other = swept.run("sweep", "dg-weight", *WEIGHTS[:-1], "1", "--resume", code=2).stderr
    assert "sample toy-dg: sample_seeds was 2 and is 1" in other
    assert "was never begun here" in swept.run("sweep", "nfe", "--of", "toy", "--resume", code=2).stderr


def test_results_are_the_same_to_the_bit_without_the_store(swept: ToyStudy, tmp_path: Path) -> None:
    fresh = ToyStudy.build(tmp_path / "house")
    fresh.run("sweep", "dg-weight", *WEIGHTS)
    for file in ("tables/dg-weight.csv", "sweeps/dg-weight.png", "sweeps/dg-weight.md"):
        assert (fresh.folder / "reports" / file).read_bytes() == (swept.folder / "reports" / file).read_bytes(), file
