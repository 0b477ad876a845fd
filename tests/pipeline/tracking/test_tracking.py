"""What is logged to MLflow, against real databases, processes and a server that is not there."""

import json
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run as Found

from pipeline.launch.signals import Stopped
from pipeline.store.process_id import ProcessId
from pipeline.tracking import mlflow_run as tracking
from pipeline.tracking.backend import TrackingError
from pipeline.tracking.mlflow_run import REASON, Run, Tracker, attach, connect
from tests.support.children import ROOT, kill, start

CONNECT = (
    "import sys; from pathlib import Path; from pipeline.tracking.mlflow_run import connect; connect(Path(sys.argv[1]))"
)


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database, for tests to copy: making it takes a second."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect(folder)
    return folder / "mlflow.db"


@pytest.fixture
def project(database: Path, tmp_path: Path) -> Path:
    shutil.copy(database, tmp_path)
    return tmp_path


@pytest.fixture
def tracker(project: Path) -> Tracker:
    return connect(project)


def opened(tracker: Tracker, parent: str | None = None):
    return tracker.open_run("study/digits", "edm", {"steps": 18, "seed": 0}, {"model": {}}, {"stage": "sample"}, parent)


def found(run: Run) -> Found:
    return client_of(run).get_run(run.spec.run_id)


def run_that_ends(tracker: Tracker, raised: BaseException, work: Callable[[Run], None]) -> Run:
    runs: list[Run] = []

    def attempt() -> None:
        with opened(tracker) as run:
            runs.append(run)
            work(run)
            raise raised

    with pytest.raises(type(raised)):
        attempt()
    return runs[0]


def change(project: Path, statement: str) -> None:
    with sqlite3.connect(project / "mlflow.db") as database:
        database.execute(statement)


def client_of(run: Run) -> MlflowClient:
    return MlflowClient(run.spec.uri)


def artifacts(run: Run, folder: str | None = None) -> Iterator[str]:
    for item in client_of(run).list_artifacts(run.spec.run_id, folder):
        if item.is_dir:
            yield from artifacts(run, item.path)
        else:
            yield item.path


def test_a_run_keeps_its_name_params_tags_config_and_parent(tracker: Tracker) -> None:
    with opened(tracker) as parent, opened(tracker, parent.spec.run_id) as run:
        pass
    kept = found(run)
    assert (kept.info.run_name, kept.info.status) == ("edm", "FINISHED")
    assert kept.data.params == {"steps": "18", "seed": "0"}
    assert kept.data.tags["stage"] == "sample"
    assert kept.data.tags["mlflow.parentRunId"] == parent.spec.run_id
    config = client_of(run).download_artifacts(run.spec.run_id, "config.json")
    assert json.loads(Path(config).read_text()) == {"model": {}}
    assert kept.info.experiment_id == found(parent).info.experiment_id


def test_metrics_wait_and_are_sent_together(tracker: Tracker) -> None:
    with opened(tracker) as run:
        for step in range(1, 301):
            run.log({"train/loss": 1 / step, "train/norm": float("nan")}, step)
        assert found(run).data.metrics == {}
        for step in range(301, 1501):
            run.log({"train/loss": 1 / step}, step)
        assert "train/loss" in found(run).data.metrics
    history = client_of(run).get_metric_history(run.spec.run_id, "train/loss")
    assert {point.step: point.value for point in history} == {step: 1 / step for step in range(1, 1501)}


def test_a_metric_without_its_chapter_is_an_error(tracker: Tracker) -> None:
    with opened(tracker) as run, pytest.raises(ValueError, match=r"metric 'loss': one word after train/"):
        run.log({"loss": 1.0}, 0)


def test_pictures_figures_and_tables_arrive(tracker: Tracker) -> None:
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    with opened(tracker) as run:
        for step in (10, 20):
            run.images("samples", picture, step)
        run.picture("paths.png", picture)
        run.picture("curves.png", Figure())
        run.table("values.json", pd.DataFrame({"fd": [1.0, 2.0]}))
        run.tag("dvc.md5", "0123")
    names = list(artifacts(run))
    assert {"paths.png", "curves.png", "values.json", "config.json"} <= set(names)
    assert sum(name.startswith("images/samples+step+20+") and name.endswith(".png") for name in names) == 1
    assert found(run).data.tags["dvc.md5"] == "0123"


@pytest.mark.parametrize(
    ("raised", "status", "reason"),
    [
        (ValueError("no loss\nat all"), "FAILED", "ValueError: no loss"),
        (TrackingError("pictures are gone"), "FAILED", "pictures are gone"),
        (KeyboardInterrupt(), "KILLED", "stopped: KeyboardInterrupt"),
        (Stopped(), "KILLED", "stopped: Stopped"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_ends_a_run_is_written_on_it(tracker: Tracker, raised: BaseException, status: str, reason: str) -> None:
    kept = found(run_that_ends(tracker, raised, lambda run: run.log({"train/loss": 1.0}, 1)))
    assert (kept.info.status, kept.data.tags[REASON]) == (status, reason)
    assert kept.data.metrics == {"train/loss": 1.0}


WORKER = """
    import pickle, sys
    from pipeline.tracking.mlflow_run import attach

    with attach(pickle.loads(bytes.fromhex(sys.argv[1]))) as run:
        run.log({"train/loss": 0.5}, 7)
    print("logged")
"""


def test_another_process_logs_to_the_run_and_leaves_it_open(tracker: Tracker) -> None:
    with opened(tracker) as run:
        child = start(WORKER, pickle.dumps(run.spec).hex())
        assert child.wait() == 0, child.communicate()[1]
        assert found(run).data.metrics == {"train/loss": 0.5}
        assert found(run).info.status == "RUNNING"


def test_a_worker_without_the_database_file_does_not_make_another(tracker: Tracker, project: Path) -> None:
    with opened(tracker) as run:
        pass
    elsewhere = tracking.RunSpec(f"sqlite:///{project}/elsewhere.db", run.spec.run_id)
    with pytest.raises(TrackingError, match="needs an MLflow server"), attach(elsewhere):
        pass
    assert not (project / "elsewhere.db").exists()


ENDLESS = """
    import sys, time
    from pathlib import Path
    from pipeline.tracking.mlflow_run import connect

    with connect(Path(sys.argv[1])).open_run("study/digits", "edm", {}, {}, {}) as run:
        run.log({"train/loss": 0.5}, 7)
        run.flush()
        print(run.spec.run_id, flush=True)
        time.sleep(600)
"""


def test_the_next_command_closes_runs_of_killed_processes_only(project: Path) -> None:
    child = start(ENDLESS, project)
    with opened(connect(project)) as mine:
        client = client_of(mine)
        running = client.search_runs([found(mine).info.experiment_id])
        assert {run.info.status for run in running} == {"RUNNING"}
        kill(child)
        connect(project)
        (abandoned,) = (client.get_run(run.info.run_id) for run in running if run.info.run_id != mine.spec.run_id)
        assert abandoned.info.status == "KILLED"
        assert "is gone without having closed its run" in abandoned.data.tags[REASON]
        (point,) = client.get_metric_history(abandoned.info.run_id, "train/loss")
        assert abandoned.info.end_time == point.timestamp
        assert found(mine).info.status == "RUNNING"


def test_a_run_that_ends_while_its_database_is_locked_is_closed_by_the_next_command_as_it_ended(
    tracker: Tracker, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tracker) as run:
        change(project, "ALTER TABLE runs RENAME TO away")
    change(project, "ALTER TABLE away RENAME TO runs")
    assert found(run).info.status == "RUNNING"
    monkeypatch.setattr(ProcessId, "is_alive", lambda owner: False)
    connect(project)
    assert found(run).info.status == "FINISHED"
    assert REASON not in found(run).data.tags
    assert list((project / "mlflow.db.ends").iterdir()) == []


def test_several_commands_at_once_make_one_database(tmp_path: Path) -> None:
    children = [subprocess.Popen([sys.executable, "-c", CONNECT, tmp_path], cwd=ROOT) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert not list(tmp_path.glob(".*"))
    with opened(connect(tmp_path)) as run:
        pass
    assert Path(found(run).info.artifact_uri or "").is_relative_to(tmp_path / "mlartifacts")


def test_several_runs_at_once_share_one_new_experiment(tracker: Tracker) -> None:
    def open_one(_: int) -> str:
        with opened(tracker) as run:
            return found(run).info.experiment_id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(open_one, range(4)))) == 1


def test_an_experiment_deleted_by_hand_is_restored(tracker: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(tracker) as run:
        pass
    client_of(run).delete_experiment(found(run).info.experiment_id)
    with opened(tracker) as again:
        pass
    assert found(again).info.experiment_id == found(run).info.experiment_id
    assert "experiment study/digits had been deleted in MLflow: restored" in capsys.readouterr().err


def test_a_tracker_that_fails_later_costs_one_warning_and_nothing_is_lost_when_it_returns(
    tracker: Tracker, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.0)

    def work(run: Run) -> None:
        change(project, "ALTER TABLE metrics RENAME TO away")
        for step in range(50):
            run.log({"train/loss": 1.0}, step)
            run.images("samples", np.zeros((8, 8), np.uint8), step)
        change(project, "ALTER TABLE away RENAME TO metrics")

    run = run_that_ends(tracker, ValueError("the work itself"), work)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "no such table: metrics; the work goes on, its result is kept" in warning
    assert len(client_of(run).get_metric_history(run.spec.run_id, "train/loss")) == 50
    assert found(run).data.tags[REASON] == "ValueError: the work itself"


def test_a_failing_tracker_is_not_blamed_with_the_error_of_the_work(
    tracker: Tracker, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    def work(run: Run) -> None:
        run.log({"train/loss": 1.0}, 1)
        change(project, "DROP TABLE metrics")

    run_that_ends(tracker, ValueError("the work itself"), work)
    assert "no such table: metrics" in capsys.readouterr().err


def test_importing_the_tracker_does_not_import_mlflow() -> None:
    heavy = {"mlflow", "pandas", "numpy", "matplotlib"}
    script = f"import sys, pipeline.tracking.mlflow_run; print({heavy} & set(sys.modules))"
    child = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "set()"
