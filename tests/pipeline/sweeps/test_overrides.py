"""Points, seeds and settings of a sweep, all determined before anything runs."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from methods.core.types import DataSpec
from pipeline.config.build import build_method
from pipeline.config.study import Study, load_study
from pipeline.errors import ConfigError
from pipeline.sweeps.entry import Sweep, find_sweep, list_sweeps, shipped
from pipeline.sweeps.overrides import changed, evaluated
from pipeline.sweeps.summary import table, verdict
from pipeline.sweeps.trials import Trial, trials_of
from tests.support.toy_study import PARAMS, ROOT

SIDDM = {"dataset": "digits", "method": "siddm.SIDDM", "model": {"net": "mlp"}, "train": {"seed": 7}, "sample": {}}


def study(folder: Path, **more: Any) -> Study:
    params = YAML(typ="safe", pure=True).load(PARAMS)
    params["root"] = str(ROOT)
    params["runs"]["siddm"] = SIDDM
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(params | more, file)
    return load_study(folder / "params.yaml")


def trials(folder: Path, name: str, of: str, values: str | None = None, seeds: int | None = None) -> list[Trial]:
    found = study(folder)
    return trials_of(found, find_sweep(found, name, of, values, seeds), f"sweeps.{name}")


def configs(trial: Trial) -> dict[str, Any]:
    return {call.stage: call.config for call in evaluated(trial.study, trial.point.of)}


def test_afd_weight_is_swept_with_and_without_the_regulariser_over_training_seeds(tmp_path: Path) -> None:
    found = trials(tmp_path, "afd-weight", "siddm", "0,0.5,inf", seeds=2)
    models = [configs(trial)["pretrain"]["model"] for trial in found]
    assert [(model["afd_weight"], model["clean_weight"]) for model in models[::2]] == [
        (0, 1.0), (0, None), (0.5, 1.0), (0.5, None), (1.0, 1.0), (1.0, None),
    ]  # fmt: skip
    assert [model.get("adversarial_weight", 1.0) for model in models] == [1.0] * 8 + [0.0] * 4  # inf: AFD alone
    assert [configs(trial)["pretrain"]["train"]["seed"] for trial in found[:2]] == [7, 8]


def test_papers_numbers_belong_to_their_points(tmp_path: Path) -> None:
    sweep = find_sweep(study(tmp_path), "afd-weight", "siddm", None, None)
    numbers = {tuple(point.values.values()): sweep.paper_value(point) for point in sweep.points()}
    assert numbers[0, 1.0] == 77.15
    assert numbers[5, None] == 2.95
    assert numbers[math.inf, 1.0] == 41.27
    assert None not in numbers.values()


def test_a_verdict_holds_the_printed_best_against_the_other_printed_points(tmp_path: Path) -> None:
    sweep = find_sweep(study(tmp_path), "afd-weight", "siddm", "0,1,inf", 3)
    found = trials(tmp_path, "afd-weight", "siddm", "0,1,inf", seeds=3)
    fd = {0: 5.0, 1: 2.0, math.inf: 1.0}

    def content(trial: Trial) -> dict[str, Any]:
        weight, clean = trial.point.values.values()
        value = (3.0 if clean is None and weight else fd[weight]) + (trial.seed - 1) * (1 if clean is None else 0.01)
        row = {"metric": "fd", "values": [value], "real_vs_real": 0.1, "card": {"id": "x", "text": "x"}}
        return {"sets": ["a"], "counts": {"nfe": 4}, "metrics": [row]}

    says = verdict(sweep, found, {trial.id: content(trial) for trial in found})
    best, zero, inf = (f"siddm afd_weight={weight} clean_weight=1" for weight in ("1", "0", "inf"))
    assert says.text.startswith(f"best: {inf} (fd 1, for the method, 3 training seeds)")
    assert f"Against {best}, the paper's best: worse: {zero}" in says.text
    assert f"; better: {inf}; not resolvable: siddm afd_weight=1 clean_weight=null" in says.text


def test_trainings_that_are_equal_at_all_points_get_no_training_seeds(tmp_path: Path) -> None:
    weights = trials(tmp_path, "dg-weight", "toy-dg", "0,1", seeds=3)
    assert [trial.id for trial in weights] == ["toy-dg weight=0 s0", "toy-dg weight=1 s0"]
    assert {configs(trial)["sample"]["sample_seeds"] for trial in weights} == {3}
    fakes = trials(tmp_path, "fakes", "toy-dg", "64,128", seeds=2)
    assert [trial.seed for trial in fakes] == [0, 1, 0, 1]
    assert {configs(trial)["pretrain"]["train"].get("seed") for trial in fakes} == {None}
    assert [configs(trial)["discriminate"]["train"].get("seed") for trial in fakes] == [None, 1, None, 1]


def test_a_verdict_over_one_score_network_is_on_that_network_however_often_its_guide_was_trained(
    tmp_path: Path,
) -> None:
    sweep = find_sweep(study(tmp_path), "dg-epochs", "toy-dg", "100,250", 3)
    found = trials(tmp_path, "dg-epochs", "toy-dg", "100,250", seeds=3)

    def content(trial: Trial) -> dict[str, Any]:
        value = float(trial.point.values["guide_steps"] == 250) + trial.seed / 100
        row = {"metric": "fd", "values": [value], "real_vs_real": 0.1, "card": {"id": "x", "text": "x"}}
        return {"sets": ["a"], "counts": {"nfe": 4}, "metrics": [row]}

    contents = {trial.id: content(trial) for trial in found}
    best = "best: toy-dg guide_steps=100 (fd 0.01, for this checkpoint, 3 trainings of its guide)"
    assert verdict(sweep, found, contents).text == best
    assert set(table(sweep, found, contents)["train_seeds"]) == {1}


def test_a_table_has_the_value_of_every_training_seed(tmp_path: Path) -> None:
    sweep = find_sweep(study(tmp_path), "afd-weight", "siddm", "1", 2)
    found = trials(tmp_path, "afd-weight", "siddm", "1", seeds=2)
    row = {"metric": "fd", "values": [1.0, 2.0], "real_vs_real": 0.1, "card": {"id": "x", "text": "x"}}
    contents = {trial.id: {"sets": ["a", "b"], "counts": {"nfe": 4}, "metrics": [row]} for trial in found}
    assert table(sweep, found, contents)["by_seed"].tolist() == ["0=1.5 1=1.5", ""] * 2


def test_a_sweep_over_several_entries_has_each_of_them_at_every_value(tmp_path: Path) -> None:
    found = trials(tmp_path, "nfe", "toy,toy-dg", "2,3")
    assert [trial.id for trial in found] == [
        "toy steps=2 s0", "toy steps=3 s0", "toy-dg steps=2 s0", "toy-dg steps=3 s0",
    ]  # fmt: skip
    assert [configs(trial)["sample"]["sampler"]["sample"]["steps"] for trial in found] == [2, 3, 2, 3]


def test_an_entry_overrides_the_shipped_sweep(tmp_path: Path) -> None:
    own = {"dg-weight": {"of": "toy-dg", "values": [0, 3]}, "mine": {"of": "toy", "table": "t", "field": "model.lr"}}
    found = study(tmp_path, sweeps=own)
    assert [point.values for point in find_sweep(found, "dg-weight").points()] == [
        {"weight": 0}, {"weight": 3},
    ]  # fmt: skip
    assert {entry["sweep"] for entry in list_sweeps(found)} == {"mine", *shipped()}
    with pytest.raises(ConfigError, match=r"sweeps\.mine: no values"):
        find_sweep(found, "mine")


def test_the_strength_of_any_guide_has_one_name(tmp_path: Path) -> None:
    found = trials(tmp_path, "guidance-scale", "toy-dg", "0,3")
    assert [configs(trial)["sample"]["sampler"]["guides"][0]["use"]["weight"] for trial in found] == [0, 3]


@pytest.mark.parametrize(
    ("name", "of", "values", "message"),
    [
        ("dg-wait", "toy-dg", None, r"no sweep named 'dg-wait' .*did you mean 'dg-weight'.*afd-weight"),
        ("dg-weight", "toy-gd", None, r"no run, guided entry or STACK.MEMBER named 'toy-gd'.*did you mean 'toy-dg'"),
        ("afd-weight", None, None, r"needs a run of method siddm\.SIDDM; this study has siddm: name one with --of"),
        (
            "afd-weight",
            "siddm",
            "-1",
            r"sweeps\.afd-weight: siddm afd_weight=-1 .*afd_weight: -1 does not fit: .* greater than or equal to 0",
        ),
        ("steps", "siddm", "0", r"steps: 0 does not fit: Input should be greater than or equal to 1"),
        ("steps", "toy", None, r"unknown key 'steps'.*it has .*width"),
        ("nfe", "toy", "2,two", r"sample\.steps: 'two' does not fit"),
        ("dg-weight", "toy", None, r"a run such as toy has no field 'guides\.0\.weight': it has .*sample"),
        ("cg-dg", "toy-dg", None, r"unknown key 'scale'|no guides\.1"),
    ],
)
def test_a_wrong_sweep_raises_an_error_before_anything_runs(
    name: str, of: str | None, values: str | None, message: str, tmp_path: Path
) -> None:
    found = study(tmp_path)
    with pytest.raises(ConfigError, match=message):
        trials_of(found, find_sweep(found, name, of, values, None), f"sweeps.{name}")


def test_a_changed_field_leaves_the_study_as_it_was(tmp_path: Path) -> None:
    found = study(tmp_path)
    other = changed(found, "toy-dg", "run.model.width", 99)
    assert found.runs["toy"].model["width"] == 16
    assert other.runs["toy"].model["width"] == 99
    assert other.guided is found.guided


@pytest.mark.parametrize("name", shipped())
def test_shipped_sweeps_are_complete(name: str) -> None:
    sweep = Sweep(**{**shipped()[name], "paper": None, "of": "a"})
    labels = [point.label for point in sweep.points()]
    assert len(labels) >= 3
    assert len(set(labels)) == len(labels)


def test_every_arm_of_the_ablation_changes_the_network_of_the_study_s_own_adm() -> None:
    found = load_study(ROOT / "studies" / "digits" / "params.yaml")
    arms = trials_of(found, find_sweep(found, "architecture", "adm-digits", None, 1), "sweeps.architecture")
    blocks = {trial.point.values["arm"]: configs(trial)["pretrain"] for trial in arms}
    methods = {label: build_method(block["method"], block["model"]) for label, block in blocks.items()}
    assert len(set(map(repr, methods.values()))) == 7
    assert {method.head_width for method in methods.values()} == {None}  # or else `heads` would mean nothing
    data = DataSpec((1, 8, 8), 10, 0.5)
    baseline, depth = (
        sum(parameter.numel() for net in methods[label].build(data).values() for parameter in net.parameters())
        for label in ("baseline", "depth")
    )
    assert depth == pytest.approx(baseline, rel=0.02)


@pytest.mark.parametrize("name", [name for name, block in shipped().items() if "paper" in block])
def test_the_papers_numbers_are_those_of_the_ledger(name: str) -> None:
    printed = pd.concat([pd.read_csv(file) for file in (ROOT / "reports/papers").glob("[fg]*.csv")])
    paper, _, place = shipped()[name]["paper"]["source"].partition(", ")
    rows = printed[printed.paper.str.startswith(paper) & printed.table.str.contains(place.split(" of ")[0])]
    if name == "architecture":  # printed as differences from its first row
        base = rows.loc[rows.metric == "FID_700K", "value"]
        known = {round(float(base.iloc[0]) + delta, 2) for delta in base.iloc[1:]} | {base.iloc[0]}
    else:
        known = set(rows.loc[rows.metric == "FID", "value"])
    assert {row[-1] for row in shipped()[name]["paper"]["rows"]} <= known
