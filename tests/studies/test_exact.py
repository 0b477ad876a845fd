"""Guidance and denoising of known mixtures: the script of `studies/exact` on small discriminators."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "studies" / "exact"))  # a script's own folder is where its imports are found

import compute  # noqa: E402

SMALL = compute.Training(steps=150, batch=128, width=32, depth=1)
KEY = ["entry", "case", "metric"]


def values(folder: Path) -> pd.Series:
    return pd.Series(pd.read_csv(folder / "exact.csv").set_index(KEY)["value"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    compute.main(folder, SMALL)
    return folder


@pytest.mark.parametrize("world", ["blind", "misplaced"])
def test_no_guide_gains_nothing_a_trained_one_something_and_the_optimal_one_most(world: str, made: Path) -> None:
    rows = pd.read_csv(made / "exact.csv").query("entry == @world").set_index(["case", "metric"])
    cases = rows.index.unique("case")
    assert set(cases) == {"none", "optimal", "untrained", "bce", "lsif", "ukl"}
    won = {case: rows.value[case, "score_error"] - rows.value[case, "adjusted_error"] for case in cases}
    assert won["none"] == 0
    assert max(won["untrained"], 0) < 0.5 * won["bce"] < won["bce"] < won["optimal"]
    assert rows.value["optimal", "adjusted_error"] == pytest.approx(0, abs=1e-9)
    for case in cases:
        value, low, high = rows.loc[(case, "gain"), ["value", "ci_low", "ci_high"]]
        assert value == pytest.approx(won[case], abs=4 * (high - low) / (2 * 1.96) + 1e-9)


@pytest.mark.parametrize("world", ["blind", "misplaced"])
def test_a_discriminator_gains_while_it_trains(world: str) -> None:
    known = compute.WORLDS[world]
    trained = compute.train_discriminator(known, "bce", SMALL)
    steps, gains = zip(*((step, compute.estimate_gain(known, denoise).value) for step, denoise in trained))
    assert (steps[0], steps[-1]) == (0, SMALL.steps)
    assert gains[0] < gains[1] < gains[-1]


def test_a_denoising_distribution_has_more_modes_the_larger_the_step() -> None:
    x, marginals, reverse, modes = compute.denoising_distributions()
    assert list(modes) == list(range(1, compute.CHAIN_STEPS + 1))
    counts = list(modes.values())
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[-1] > 2
    assert (len(marginals), len(reverse)) == (compute.CHAIN_STEPS + 1, compute.CHAIN_STEPS)
    for density in (*marginals, *reverse):
        assert np.trapezoid(density, x) == pytest.approx(1.0, abs=0.01)


def test_a_second_run_writes_the_same_bytes(made: Path, tmp_path: Path) -> None:
    compute.main(tmp_path, SMALL)
    files = {file.name: file.read_bytes() for file in made.iterdir()}
    assert set(files) == {"exact.csv", "exact-fields.png", "exact-gains.png", "exact-denoising.png"}
    assert files == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_committed_values_that_need_no_training_are_computed_again(made: Path) -> None:
    committed, now = values(ROOT / "reports" / "measured"), values(made)
    assert list(committed.index) == list(now.index)
    exact = [
        case in ("none", "optimal") or case.endswith(" steps") for case in committed.index.get_level_values("case")
    ]
    assert sum(exact) == 17
    assert np.asarray(now[exact]) == pytest.approx(np.asarray(committed[exact]), rel=1e-5, abs=1e-9)


@pytest.mark.slow
def test_all_committed_values_are_computed_again(tmp_path: Path) -> None:
    compute.main(tmp_path, compute.Training())
    assert values(tmp_path).to_dict() == pytest.approx(
        values(ROOT / "reports" / "measured").to_dict(), rel=1e-3, abs=1e-9
    )
