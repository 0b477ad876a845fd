"""A sweep in MLflow's compare view, in a real browser."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.browser import Page, needs_browser, rendered, tracker_of
from tests.support.toy_study import ToyStudy

MOST_PARAMETERS, MOST_METRICS = 12, 20


@pytest.fixture
def ui(swept: ToyStudy) -> Iterator[str]:
    """The address of a tracker that shows the sweep."""
    with tracker_of(swept) as (address, _):
        yield address


def children(toy: ToyStudy) -> dict[str, str]:
    """Run id by name, of the trials."""
    with closing(sqlite3.connect(toy.house / "mlflow.db")) as database:
        rows = database.execute(
            "SELECT name, run_uuid FROM runs JOIN tags USING (run_uuid) WHERE key = 'mlflow.parentRunId'"
        )
        return dict(rows)


def test_few_parameters_and_metrics_are_kept_of_a_trial_and_final_values_once(swept: ToyStudy) -> None:
    with closing(sqlite3.connect(swept.house / "mlflow.db")) as database:
        for run_id in children(swept).values():
            parameters = dict(database.execute("SELECT key, value FROM params WHERE run_uuid = ?", [run_id]))
            metrics = [key for (key,) in database.execute("SELECT key FROM metrics WHERE run_uuid = ?", [run_id])]
            assert {"method", "dataset", "entry", "seed", "weight"} <= set(parameters)
            assert len(parameters) <= MOST_PARAMETERS
            assert len(set(metrics)) <= MOST_METRICS
            assert "eval/fd small-cnn" in metrics
            final = [key for key in metrics if key.startswith("eval/")]
            assert len(final) == len(set(final))


@needs_browser
def test_the_compare_view_shows_every_trial_with_its_point_and_its_metrics(
    ui: str, swept: ToyStudy, tmp_path: Path
) -> None:
    trials = children(swept)
    runs, experiments = quote(json.dumps(list(trials.values()))), quote(json.dumps(["1"]))
    html, _ = rendered(f"{ui}/#/compare-runs?runs={runs}&experiments={experiments}", tmp_path, (2400, 1600))
    words = Page(html).words
    assert "Comparing 3 Runs from 1 Experiment" in words
    for word in [*trials, "weight", "0", "1", "4", "eval/fd small-cnn", "eval/nfe"]:
        assert word in words, word
