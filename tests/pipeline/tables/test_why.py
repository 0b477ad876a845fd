"""`trilemma why`: an address read off a table leads to everything the number was computed from."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.config.study import load_study
from pipeline.dag.graph import chain
from pipeline.tables.cells import tables
from pipeline.tables.why import explain
from tests.support.toy_study import ToyStudy


def test_an_address_leads_to_every_stage_with_its_code_settings_inputs_seeds_and_tracked_run(
    reproduced: ToyStudy,
) -> None:
    told = json.loads(reproduced.run("why", "digits:toy-dg/fd", "--json").stdout)
    study = load_study(reproduced.folder / "params.yaml")
    wanted = [f"{call.stage} {call.name}" for call in chain(study, "evaluate", "toy-dg")]
    assert [f"{stage['stage']} {stage['name']}" for stage in told["stages"]] == wanted
    assert told["ci_low"] < told["value"] < told["ci_high"]
    assert "1 % of the interval" in told["tolerance"]
    by_digest = {stage["digest"] for stage in told["stages"]}
    for stage in told["stages"]:
        assert stage["version"] == "present"
        assert stage["digest"] == reproduced.digest(stage["stage"], stage["name"])
        assert set(stage["inputs"].values()) <= by_digest
        assert len(stage["code"]) == 64
        assert stage["seconds"] > 0
        assert len(stage["mlflow_run"]) == 32
    sampled = next(stage for stage in told["stages"] if stage["stage"] == "sample")
    assert sampled["parameters"]["sampler"]["guides"][0]["use"] == {"weight": 1}
    assert sampled["seeds"]["samples-0"] == [0, 96]


def test_every_cell_that_a_table_lists_can_be_asked_for_and_no_two_have_one_address(reproduced: ToyStudy) -> None:
    study = load_study(reproduced.folder / "params.yaml")
    listed = {name: explain(study, name)["cells"] for name in tables(study)}
    assert set(listed) >= {"digits", "digits-guidance", "translations/blocky", "measured/exact", "measured/mog25"}
    for name, cells in listed.items():
        assert len(set(cells)) == len(cells) == len(tables(study)[name].file.read_text().splitlines()) - 1
    assert reproduced.run("why", "digits").stdout.splitlines() == listed["digits"]


def test_a_cell_of_a_translation_leads_to_its_stages(reproduced: ToyStudy) -> None:
    study = load_study(reproduced.folder / "params.yaml")
    told = explain(study, "translations/blocky:toy/start=5/fd")
    assert told["ci_low"] < told["value"] < told["ci_high"]
    wanted = [(call.stage, call.name) for call in chain(study, "translate", "blocky")]
    assert [(found["stage"], found["name"]) for found in told["stages"]] == wanted
    assert {found["version"] for found in told["stages"]} == {"present"}


def test_a_point_of_a_sweep_leads_to_the_settings_of_its_trial(swept: ToyStudy, tmp_path: Path) -> None:
    toy = swept.with_store(tmp_path / "house")
    with (toy.folder / "params.yaml").open("a") as params:
        params.write("sweeps: {dg-weight: {of: toy-dg, table: dg-weight, values: [0, 1, 4], seeds: 2}}\n")
    told = json.loads(toy.run("why", "dg-weight:toy-dg/weight=4/fd", "--json").stdout)
    sampled = next(stage for stage in told["stages"] if stage["stage"] == "sample")
    assert sampled["parameters"]["sampler"]["guides"][0]["use"] == {"weight": 4}
    assert sampled["command"] == "trilemma sweep dg-weight"


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("digit:toy/fd", "no table 'digit' in reports, did you mean digits?"),
        ("digits:toy-dg/fdd", "did you mean digits:toy-dg/fd"),
        ("digits:toy", "(trilemma why digits lists its cells)"),
    ],
)
def test_an_unknown_address_is_told_the_nearest(address: str, wanted: str, reproduced: ToyStudy) -> None:
    told = reproduced.run("why", address, code=2)
    assert wanted in told.stderr
    assert told.stdout == ""


def test_results_of_another_code_version_are_named(reproduced: ToyStudy, tmp_path: Path) -> None:
    toy = reproduced.with_store(tmp_path / "house")
    shutil.copytree(reproduced.folder / "reports", toy.folder / "reports", dirs_exist_ok=True)
    with (toy.house / "methods" / "discriminator_guidance.py").open("a") as file:
        file.write("\nCHANGED = 1\n")
    stages = json.loads(toy.run("why", "digits:toy-dg/fd", "--json").stdout)["stages"]
    told = toy.run("values", "digits")
    table = (toy.folder / "reports" / "tables" / "digits.csv").read_text()
    for text in (told.stderr, table):
        assert "of another version of code, settings or inputs: discriminate dg-toy, sample toy-dg" in text
    other = {f"{stage['stage']} {stage['name']}" for stage in stages if stage["version"] == "other"}
    assert other == {"discriminate dg-toy", "sample toy-dg"}
    assert {stage["code"] for stage in stages if stage["version"] == "other"} == {None}
