"""Where runs are kept: a server's address, or a database file that appears complete and once; and what shows them."""

import json
import os
import re
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlencode

from filelock import FileLock

from pipeline.console import one_line
from pipeline.errors import UserError
from pipeline.store.files import flush, temporary

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
UI_HOST, UI_PORT = "127.0.0.1", 5000
SETTINGS = {  # MLflow's own, unless the environment says otherwise
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a process of 240 MB that serves nothing we use
}
ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "12"}
IN_MEMORY = "file:trilemma-tracking?mode=memory&cache=shared"


class TrackingError(UserError):
    """The tracker cannot be used: its address, its database, or whatever it runs on."""


def tracking_uri(project: Path) -> str:
    """MLFLOW_TRACKING_URI, or mlflow.db in `project`: absolute, so that it means the same in every process."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.absolute() / DATABASE}"


def artifact_folder(project: Path) -> Path:
    """For pictures and tables where no server has its own place: beside the database, if that is a file."""
    file = database_file(tracking_uri(project))
    return (project.absolute() if file is None else file.parent) / ARTIFACTS


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


@contextmanager
def asked_once() -> Iterator[None]:
    """A server whose database is away says nothing: do not ask it thrice, for 20 seconds each."""
    before = {name: os.environ.get(name, SETTINGS[name]) for name in ONCE}
    os.environ.update(ONCE)
    try:
        yield
    finally:
        os.environ.update(before)


def database_file(uri: str) -> Path | None:
    """Of an SQLite address, else None."""
    if not uri.startswith("sqlite:"):
        return None
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if not file.is_absolute():
        raise TrackingError(f"MLFLOW_TRACKING_URI: {uri} came, an absolute sqlite:////path/to/{DATABASE} was wanted")
    return file


def refuse_absent(uri: str) -> None:
    """A worker on another machine would make a database of its own."""
    file = database_file(uri)
    if file is not None and not file.exists():
        raise TrackingError(
            f"{uri}: no such file on {socket.gethostname()}: a run over several machines needs an MLflow server; "
            "set MLFLOW_TRACKING_URI to its address"
        )


def create_missing_database(uri: str, migrate: Callable[[str], object]) -> None:
    """By one process, the others wait; in the journal mode that lets readers and a writer work at the same time.

    migrate: makes MLflow's schema at an address. It works in memory: on a disk it would sync a thousand times.
    """
    file = database_file(uri)
    if file is None or file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists():
            return
        migrate(f"sqlite:///{IN_MEMORY}&uri=true")
        with temporary(file) as beside:
            with closing(sqlite3.connect(IN_MEMORY, uri=True)) as template:
                template.execute("VACUUM INTO ?", (str(beside),))
            with closing(sqlite3.connect(beside)) as database:
                database.execute("PRAGMA journal_mode = WAL")
            flush(beside)
            beside.replace(file)


def ui_command(project: Path, port: int) -> list[str]:
    """What shows the runs at http://127.0.0.1:port."""
    kept = ["--backend-store-uri", tracking_uri(project), "--default-artifact-root", str(artifact_folder(project))]
    return [sys.executable, "-m", "mlflow", "server", *kept, "--workers", "1", "--host", UI_HOST, "--port", str(port)]


def refuse_busy(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((UI_HOST, port))
        except OSError as error:
            raise TrackingError(
                f"port {port}: {error.strerror}; if no tracker is open at http://{UI_HOST}:{port}, choose another port"
            ) from error


def compare_address(uri: str, run_ids: Sequence[str], experiments: Sequence[str]) -> str:
    """Where MLflow's UI puts runs side by side: on the server, or on the one `trilemma ui` starts."""
    base = re.sub("(?<=://)[^/@]+@", "", uri).rstrip("/") if is_server(uri) else f"http://{UI_HOST}:{UI_PORT}"
    lists = {"runs": run_ids, "experiments": list(dict.fromkeys(experiments))}
    query = urlencode({name: json.dumps(list(ids), separators=(",", ":")) for name, ids in lists.items()})
    return f"{base}/#/compare-runs?{query}"


def cause_of(error: BaseException, handled: BaseException | None = None) -> str:
    """The first of a chain of exceptions says it best."""
    while (before := error.__cause__ or error.__context__) not in (None, handled):
        assert before is not None
        error = before
    return one_line(error)
