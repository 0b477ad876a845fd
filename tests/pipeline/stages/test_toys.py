"""The worlds in which everything is known, made and drawn by the command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.artifacts import read_artifact
from pipeline.stages.toys import ARRAYS, CHAIN, NUMBERS
from tests.support.children import ROOT

PARAMS = f"""\
root: {ROOT}
toys:
  exact: {{train: {{steps: 150, batch: 128, width: 32, depth: 1}}}}
"""


def made(folder: Path) -> Path:
    """A study of toys alone, run by the command with a store of its own."""
    folder.mkdir()
    (folder / "params.yaml").write_text(PARAMS)
    own = {"TRILEMMA_STORE": str(folder / "store"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    command = [sys.executable, "-m", "pipeline.cli.main", "toys", "exact"]
    subprocess.run(command, cwd=folder, env=os.environ | own | {"PYTHONPATH": str(ROOT)}, check=True)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("toys") / "study")


@pytest.fixture(scope="module")
def numbers(study: Path) -> dict[str, Any]:
    return json.loads((study / "out/toys/exact" / NUMBERS).read_text())


def test_the_gain_is_none_without_a_guide_some_with_a_trained_one_and_most_with_the_optimal_one(
    numbers: dict[str, Any],
) -> None:
    for world in ("blind", "misplaced"):
        gains = {row["guide"]: row for row in numbers["gains"] if row["world"] == world}
        won = {guide: row["score_error"] - row["adjusted_error"] for guide, row in gains.items()}
        assert won["none"] == 0
        assert max(won["untrained"], 0) < 0.5 * won["bce"] < won["bce"] < won["optimal"]
        assert gains["optimal"]["adjusted_error"] == pytest.approx(0, abs=1e-9)
        for guide, row in gains.items():
            assert row["gain"] == pytest.approx(won[guide], abs=4 * row["gain_error"] + 1e-9)


def test_a_discriminator_gains_while_it_trains(numbers: dict[str, Any]) -> None:
    for world in ("blind", "misplaced"):
        assert {f"{world} {ratio}" for ratio in ("bce", "lsif", "ukl")} <= set(numbers["curves"])
        steps, gains, _ = zip(*numbers["curves"][f"{world} bce"])
        assert steps[0] == 0
        assert steps[-1] == 150
        assert gains[0] < gains[1] < gains[-1]


def test_the_denoising_law_has_more_modes_the_longer_the_step(numbers: dict[str, Any], study: Path) -> None:
    modes = [row["modes"] for row in numbers["modes"]]
    assert [row["steps"] for row in numbers["modes"]] == list(range(1, CHAIN + 1))
    assert modes[0] == 1
    assert modes == sorted(modes)
    assert modes[-1] > 2
    with np.load(study / "out/toys/exact" / ARRAYS) as stored:
        places, *laws = stored["laws"]
    assert len(laws) == 2 * CHAIN + 1
    for law in laws:
        assert np.trapezoid(law, places) == pytest.approx(1.0, abs=0.01)


def test_the_page_shows_what_it_names_and_is_the_same_bytes_again(study: Path, tmp_path: Path) -> None:
    page = study / "reports/toys/exact"
    named = {part.partition(")")[0] for part in (page / "README.md").read_text().split("](")[1:]}
    assert named == {"fields.png", "gains.png", "denoising-law.png"}
    again = made(tmp_path / "again")
    assert read_artifact(again / "out/toys/exact").digest == read_artifact(study / "out/toys/exact").digest
    for name in ("README.md", *named):
        assert (again / "reports/toys/exact" / name).read_bytes() == (page / name).read_bytes()
