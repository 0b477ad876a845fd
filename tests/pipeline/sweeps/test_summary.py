"""A sweep in MLflow's compare view, in a real browser."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from tests.support.children import wait_for
from tests.support.toy_study import BIN, ToyStudy

BROWSER = shutil.which("chromium")
MOST_PARAMETERS, MOST_METRICS = 12, 20


class Words(HTMLParser):
    """Text of a rendered page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.found.append(data.strip())


@pytest.fixture
def ui(swept: ToyStudy) -> Iterator[str]:
    """The address of a tracker that shows the sweep."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [BIN / "trilemma", "ui", "--port", str(port)],
        cwd=swept.house,
        env=swept.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return urlopen(address, timeout=5).status == 200
        except (URLError, TimeoutError):
            return False

    try:
        assert wait_for(answers, 120)
        yield address
    finally:
        server.terminate()
        server.wait(30)


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


@pytest.mark.skipif(BROWSER is None and not os.environ.get("CI"), reason="no chromium: apt-get install chromium")
def test_the_compare_view_shows_every_trial_with_its_point_and_its_metrics(ui: str, swept: ToyStudy) -> None:
    assert BROWSER is not None, "CI has no chromium"
    trials = children(swept)
    runs, experiments = quote(json.dumps(list(trials.values()))), quote(json.dumps(["1"]))
    page = subprocess.run(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=2400,1600",
            "--virtual-time-budget=60000", "--dump-dom", f"{ui}/#/compare-runs?runs={runs}&experiments={experiments}",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout  # fmt: skip
    words = Words()
    words.feed(page)
    assert "Comparing 3 Runs from 1 Experiment" in words.found
    for word in [*trials, "weight", "0", "1", "4", "eval/fd small-cnn", "eval/nfe"]:
        assert word in words.found, word
