"""A sweep whose points are trained as one stack, by the command people use."""

from pathlib import Path

import pandas as pd
import pytest

from tests.support.toy_study import ToyStudy

PARAMS = """
root: ../..
datasets:
  mog25: {source: mog25, options: {per_mode: 40, held_out: 300}, features: {}, evaluate: {images: 200, sample_seeds: 2}}
stacks:
  small:
    dataset: mog25
    method: siddm.SIDDM
    model: {net: mixture-fourier, width: 16, afd: renoise, c_target: null, trained_times: visited, ema: 0.9}
    members:
      siddm-2: {steps: 2, r1_gamma: 0.1}
    train: {steps: 20, batch: 32}
    sample: {}
sweeps:
  afd-weight: {of: small.siddm-2, values: [0, 1, .inf], seeds: 2}
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyStudy:
    toy = ToyStudy.build(tmp_path_factory.mktemp("stacked"))
    (toy.folder / "params.yaml").write_text(PARAMS)
    return toy


def test_points_of_one_member_train_as_one_and_every_seed_is_a_trial(toy: ToyStudy) -> None:
    toy.run("sweep", "afd-weight")
    computed = [str(event["stage"]) for event in toy.events() if event["event"] == "computed"]
    assert sorted(computed) == ["evaluate-stack", "features", "prepare", "stack"]
    table = pd.read_csv(toy.folder / "reports" / "tables" / "siddm-table-5.csv")
    found = table.query("metric == 'mode_kl'")
    assert found[["entry", "afd_weight"]].to_numpy().tolist() == [
        ["small.siddm-2", weight] for weight in (0, 0, 1, 1, float("inf"), float("inf"))
    ]
    assert found["clean_weight"].isna().tolist() == [False, True] * 3
    assert found["paper_value"].tolist() == [77.15, 51.67, 2.24, 3.2, 41.27, 51.55]
    assert {*found["train_seeds"], *found["sample_seeds"]} == {2}
    assert (
        len(set(table.query("metric == 'energy'")["value"].tolist())) == 5
    )  # without the game, its regulariser does nothing
    runs = dict(toy.tracked())
    assert runs.pop("sweep afd-weight") == "FINISHED"
    assert len(runs) == 12
    assert set(runs.values()) == {"FINISHED"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--of", "small.sidm-2"],
            "no run, guided entry or STACK.MEMBER named 'small.sidm-2' in params.yaml (did you mean 'small.siddm-2'",
        ),
        (["--race"], "--race is for trials that train apart; a stack trains all at once: leave it out"),
        (["--values", "-1"], "afd_weight: -1 does not fit: Input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_sweep_of_a_stack_raises_an_error_before_anything_runs(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    found = ToyStudy.build(tmp_path)
    (found.folder / "params.yaml").write_text(PARAMS)
    error = found.run("sweep", "afd-weight", *arguments, code=2).stderr
    assert complaint in error
    assert found.events() == []
