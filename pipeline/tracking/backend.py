"""Where runs are kept: on a server, or in a database file that appears complete and once; MLflow's client for either.

`mlflow` is imported inside the functions that need it: that takes a second or two, which a stage whose result is in the
store, or a worker that logs nothing, must not wait for.
"""

import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from pipeline.console import one_line, redacted
from pipeline.errors import UserError
from pipeline.store.files import replacing

if TYPE_CHECKING:
    from mlflow import MlflowClient


DATABASE = "mlflow.db"
SETTINGS = {  # MLflow's own, unless the environment has others
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a process of 240 MB that serves nothing we use
}
WITHOUT_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "12"}
IN_MEMORY = "file:trilemma-tracking?mode=memory&cache=shared"


class TrackingError(UserError):
    """The tracker cannot be used: its address, its database, or the disk or server below."""


def tracking_uri(project: Path) -> str:
    """MLFLOW_TRACKING_URI, or mlflow.db in `project`: absolute, so that it means the same in every process."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.absolute() / DATABASE}"
    if is_server(uri) and redacted(uri) != uri:
        raise TrackingError(
            "MLFLOW_TRACKING_URI has credentials in it, which logs would show: take them out, and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return uri


def artifact_folder(project: Path) -> Path:
    """For images and tables where no server keeps them: beside the database, if that is a file."""
    file = database_file(tracking_uri(project))
    return (project.absolute() if file is None else file.parent) / "mlartifacts"


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def database_file(uri: str) -> Path | None:
    """The file of an SQLite address; None for other addresses."""
    if not uri.startswith("sqlite:"):
        return None
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if not file.is_absolute():
        raise TrackingError(f"MLFLOW_TRACKING_URI: {uri} came, an absolute sqlite:////path/to/{DATABASE} was wanted")
    return file


def end_note(uri: str, run_id: str) -> Path | None:
    """The file with the status of a run that ended while its database could not be written; None without a file."""
    file = database_file(uri)
    return None if file is None else file.with_name(f"{file.name}.ends") / run_id


def refuse_absent(uri: str) -> None:
    """An error where MLflow would make a second database: on a worker's machine."""
    file = database_file(uri)
    if file is not None and not file.exists():
        raise TrackingError(
            f"{uri}: no such file on {socket.gethostname()}: a run over several machines needs an MLflow server; "
            "set MLFLOW_TRACKING_URI to its address"
        )


def create_missing_database(uri: str) -> None:
    """By one process while others wait; in the journal mode that lets readers and a writer work at the same time.

    MLflow's migrations run in memory: on a disk they would sync a thousand times.
    """
    file = database_file(uri)
    if file is None or file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if file.exists():
            return
        mlflow_client(f"sqlite:///{IN_MEMORY}&uri=true").search_experiments(max_results=1)
        with replacing(file) as beside:
            with closing(sqlite3.connect(IN_MEMORY, uri=True)) as template:
                template.execute("VACUUM INTO ?", (str(beside),))
            with closing(sqlite3.connect(beside)) as database:
                database.execute("PRAGMA journal_mode = WAL")


def mlflow_client(uri: str) -> "MlflowClient":
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # the same errors arrive as exceptions
    if not is_server(uri):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 5  # tries to connect, 3 s in all; MLflow's own 10 take 101
    return MlflowClient(uri, registry_uri=uri)


@contextmanager
def without_retries() -> Iterator[None]:
    """One request of 12 s, for a server whose database does not answer, instead of three of 20 s."""
    before = {name: os.environ.get(name, SETTINGS[name]) for name in WITHOUT_RETRIES}
    os.environ.update(WITHOUT_RETRIES)
    try:
        yield
    finally:
        os.environ.update(before)


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Errors of MLflow as a TrackingError of one line."""
    try:
        yield
    except mlflow_failures() as error:
        hint = "; start that server, or unset MLFLOW_TRACKING_URI to track in this project" if is_server(uri) else ""
        raise TrackingError(f"MLflow at {uri}: {first_cause(error)}{hint}") from error


def mlflow_failures() -> tuple[type[Exception], ...]:
    """What MLflow raises when its server, database, database driver or disk fails."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError


def first_cause(error: BaseException, handled: BaseException | None = None) -> str:
    """One line of the first of a chain of exceptions. handled: one that was handled before, where the chain ends."""
    while (before := error.__cause__ or error.__context__) not in (None, handled):
        assert before is not None
        error = before
    return one_line(error)
