"""A sweep by the command people use: nothing twice, everything tracked, tables as the study itself would make them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from tests.pipeline.conftest import WEIGHTS
from tests.support.toy_study import ToyStudy

TRUNK = {"prepare", "features", "pretrain", "generate", "discriminate"}
FILES = ("tables/dg-weight.csv", "sweeps/dg-weight.png", "sweeps/dg-weight.md")

# Runs before the command: every attempt at weight 4 fails, or only the first one.
SABOTAGE = """
import pipeline.sampling.sampler as sampling
whole, failures = sampling.GuidedSampler.sample, {failures}
def paint(painter, *rest):
    global failures
    if failures and painter.guides and painter.guides[0].use.weight == 4:
        failures -= 1
        raise RuntimeError("the paint is dry")
    return whole(painter, *rest)
sampling.GuidedSampler.sample = paint
"""


def table(toy: ToyStudy, name: str) -> pd.DataFrame:
    return pd.read_csv(toy.folder / "reports" / "tables" / f"{name}.csv", keep_default_na=False, na_values=[""])


def computed(toy: ToyStudy) -> list[str]:
    return sorted(str(event["stage"]) for event in toy.events() if event["event"] == "computed" and "sweep" in event)


def test_every_stage_is_computed_once_and_every_trial_is_tracked(swept: ToyStudy) -> None:
    assert computed(swept) == sorted([*TRUNK, *["sample", "evaluate"] * 3])
    assert swept.tracked() == [
        ("sweep dg-weight", "FINISHED"),
        *((f"toy-dg weight={weight} s0", "FINISHED") for weight in (0, 1, 4)),
    ]
    assert swept.left_behind() == []
    assert not (swept.house / ".trilemma/sweeps/toy/dg-weight/results").exists()
    assert not swept.out.exists()


def test_a_dry_run_lists_what_would_run_and_runs_nothing(swept: ToyStudy) -> None:
    before = swept.events(), swept.tracked()
    told: dict[str, Any] = json.loads(
        swept.run("sweep", "dg-weight", *WEIGHTS[:3], "1,2,3", *WEIGHTS[4:], "--dry-run", "--json").stdout
    )
    assert [point["weight"] for point in told["points"]] == [1, 2, 3]
    assert {stage["stage"] for stage in told["reused"]} == {*TRUNK, "sample", "evaluate"}  # weight 1 is there
    assert [stage["stage"] for stage in told["run"]] == ["sample", "evaluate", "sample", "evaluate"]
    assert all(stage["seconds"] > 0 for stage in told["run"])
    assert [stage["key"] is None for stage in told["run"]] == [False, True, False, True]  # its input is not there yet
    assert (swept.events(), swept.tracked()) == before


def test_in_repro_only_what_a_sweep_changes_is_computed_and_to_the_same_bits(
    reproduced: ToyStudy, swept: ToyStudy, tmp_path: Path
) -> None:
    toy = reproduced.with_store(tmp_path / "house")
    toy.call("git", "-C", str(toy.house), "init", "--quiet")
    toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
    shutil.copy(reproduced.folder / "dvc.lock", toy.folder)
    with (toy.folder / "params.yaml").open("a") as params:
        params.write("sweeps: {dg-weight: {of: toy-dg, table: dg-weight, values: [0, 1, 4], seeds: 2}}\n")
    printed = toy.run("repro", "sweep", "--jobs", "2").stdout
    assert "sweep@dg-weight: toy-dg weight=0 s0 ... | > trilemma sweep dg-weight --trials 0,2" in printed
    assert computed(toy) == ["evaluate", "evaluate", "sample", "sample"]  # weight 1 is the study's own
    for file in FILES:
        assert (toy.folder / "reports" / file).read_bytes() == (swept.folder / "reports" / file).read_bytes(), file
    found, own = table(toy, "dg-weight"), table(toy, "digits")
    assert set(found.train_seeds) == {1}
    assert set(found.sample_seeds) == {2}
    own = own.query("guidance == 'toy-dg'").reset_index(drop=True)
    ours = found.query("weight == 1").reset_index(drop=True)
    for column in ("metric", "value", "ci_low", "ci_high", "real_vs_real", "card"):
        assert ours[column].equals(own[column]), column


def test_a_sweep_that_was_done_computes_nothing_and_stays_one_in_the_tracker(swept: ToyStudy) -> None:
    before = swept.tracked(), computed(swept), table(swept, "dg-weight")
    told = json.loads(swept.run("sweep", "dg-weight", *WEIGHTS, "--json").stdout)
    assert told["trials"] == ["toy-dg weight=0 s0", "toy-dg weight=1 s0", "toy-dg weight=4 s0"]
    assert (swept.tracked(), computed(swept)) == before[:2]
    assert table(swept, "dg-weight").equals(before[2])


def test_the_same_sweep_is_refused_while_it_runs(swept: ToyStudy) -> None:
    with FileLock(swept.house / ".trilemma/sweeps/toy/dg-weight/.lock"):
        other = swept.run("sweep", "dg-weight", *WEIGHTS, code=2).stderr
    assert "sweep dg-weight runs in this study already" in other


def test_a_failed_trial_is_tried_once_more_and_reported_and_the_others_are_kept(
    swept: ToyStudy, tmp_path: Path
) -> None:
    toy = swept.with_store(tmp_path / "house")
    other = ("--of", "toy-dg", "--values", "2,4", "--seeds", "1")
    told = toy.run("sweep", "dg-weight", *other, before=SABOTAGE.format(failures=9), code=1).stderr
    assert "trial toy-dg weight=4 s0 failed (RuntimeError: the paint is dry" in told
    assert "1 of 2 trials failed, first toy-dg weight=4 s0: RuntimeError: the paint is dry" in told
    assert list(dict.fromkeys(table(toy, "dg-weight").weight)) == [2]
    assert sorted(toy.tracked()) == [
        ("sweep dg-weight", "FAILED"), ("toy-dg weight=2 s0", "FINISHED"), ("toy-dg weight=4 s0", "FAILED"),
    ]  # fmt: skip
    toy.run("sweep", "dg-weight", *other, before=SABOTAGE.format(failures=1))
    assert list(dict.fromkeys(table(toy, "dg-weight").weight)) == [2, 4]
    assert sorted(toy.tracked()) == [
        ("sweep dg-weight", "FINISHED"), ("toy-dg weight=2 s0", "FINISHED"), ("toy-dg weight=4 s0", "FINISHED"),
    ]  # fmt: skip


def test_a_full_disk_raises_an_error_before_anything_runs(swept: ToyStudy, tmp_path: Path) -> None:
    toy = swept.with_store(tmp_path / "house")
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    told = toy.run("sweep", "dg-weight", *WEIGHTS[:3], "3", before=full, code=2).stderr
    assert "disk I/O error" in told
    assert toy.events() == swept.events()
