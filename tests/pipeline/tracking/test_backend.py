"""Where the tracker lives: addresses that cannot work, and the port of its pages."""

import socket
from pathlib import Path

import pytest

from pipeline.tracking.backend import TrackingError
from pipeline.tracking.mlflow_run import connect
from pipeline.tracking.ui import refuse_busy, serve_ui, ui_command


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_absent_server_is_one_line_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TrackingError) as caught:
        connect(tmp_path)
    assert "Connection refused; start that server, or unset MLFLOW_TRACKING_URI" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:///mlflow.db", "an absolute sqlite:////path/to/mlflow.db was wanted"),
        ("sqlite:///{folder}/broken.db", "file is not a database"),
        ("{folder}/mlruns", "filesystem tracking backend"),
        ("postgresql+nothing://u@127.0.0.1:9/x", "postgresql.nothing"),
    ],
)
def test_an_address_that_cannot_work_is_one_line(
    uri: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.db").write_text("this is not SQLite" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(folder=tmp_path))
    with pytest.raises(TrackingError, match=message) as caught:
        connect(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_ui_refuses_a_port_in_use_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TrackingError, match=f"port {port}: Address already in use.*choose another port"):
            serve_ui(tmp_path, port)


def test_the_ui_shows_this_projects_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ui_command(tmp_path, 5001)
    assert f"sqlite:///{tmp_path}/mlflow.db" in command
    assert command[-4:] == ["--host", "127.0.0.1", "--port", "5001"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    with pytest.raises(TrackingError, match="the runs are shown at http://tracker:5000"):
        serve_ui(tmp_path, 5001)


def test_a_free_port_is_accepted() -> None:
    refuse_busy(free_port())
