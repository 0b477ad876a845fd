"""Everything is logged to MLflow, which this module alone knows.

MLflow is for looking and comparing; what is computed is kept by the store. So a tracker that does not answer stops a
command when its run is opened, before any work, and later costs one warning, never the result.

`mlflow` is imported inside the functions that need it: that takes a second or two, and a stage whose result is in the
store, or a worker that logs nothing, must not wait for it.
"""

import json
import logging
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pipeline.console import one_line, say
from pipeline.tracking.backend import (
    SETTINGS,
    UI_HOST,
    TrackingError,
    artifact_folder,
    cause_of,
    compare_address,
    create_missing_database,
    is_server,
    refuse_absent,
    refuse_busy,
    tracking_uri,
    ui_command,
)
from pipeline.tracking.run_owner import PARENT, REASON, close_dead_runs, experiment_id, find_run, own_tags

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient


METRIC = re.compile(r"(train|eval|cost)/[\w. -]+")  # a prefix is a chapter in the UI
BATCH = 1000  # metrics, the most that MLflow takes at once
FLUSH_SECONDS = 5.0
PATIENCE_SECONDS = 60.0  # with a server that is being restarted, before what waits is given up
REST_SECONDS = 60.0  # after a failure, before the tracker is asked again
LONGEST_VALUE = 500  # characters of a reason

Status: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class RunSpec:
    """Where a run is kept. It can be sent to another process, which goes on with it by `attach`."""

    uri: str
    run_id: str


class Run:
    """A run being logged to: buffered, and forgiving once it is open."""

    def __init__(self, client: "MlflowClient", spec: RunSpec, has: Collection[str] = ()) -> None:
        self.spec = spec
        self.has = has  # metrics that it had when it was opened again
        self._client = client
        self._waiting: list[tuple[str, float, int, int]] = []  # name, value, milliseconds since the epoch, step
        self._tables: dict[str, dict[str, str]] = {}
        self._sent = time.monotonic()
        self._rest_until = 0.0
        self._has_warned = self._is_closed = False
        self._patience = PATIENCE_SECONDS if is_server(spec.uri) else 0.0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Names begin with train/, eval/ or cost/. Sent together every few seconds, and at the end."""
        for name in metrics:
            if not METRIC.fullmatch(name):
                raise ValueError(f"metric {name!r}: one word after train/, eval/ or cost/ was wanted")
        now = int(time.time() * 1000)
        self._waiting += [(name, float(value), now, step) for name, value in metrics.items()]
        if len(self._waiting) >= BATCH or time.monotonic() - self._sent > FLUSH_SECONDS:
            self.flush()

    def images(self, key: str, image: "np.ndarray", step: int) -> None:
        """One of a row of pictures that the UI shows with a slider. image: uint8 [H, W] or [H, W, 3]."""
        self._try(lambda: self._client.log_image(self.spec.run_id, image, key=key, step=step))

    def picture(self, file: str, picture: "np.ndarray | Figure") -> None:
        """A single picture under a name such as "paths.png": uint8 [H, W] or [H, W, 3], or a figure."""
        log = self._client.log_figure if hasattr(picture, "savefig") else self._client.log_image
        self._try(lambda: log(self.spec.run_id, picture, file))  # type: ignore[arg-type]

    def table(self, file: str, table: "pd.DataFrame") -> None:
        """A table under a name that ends in .json, which the UI can compare between runs; in place of an older one."""
        content = json.loads(str(table.to_json(orient="split", index=False)))
        self._try(lambda: self._client.log_dict(self.spec.run_id, content, file))
        self._tables[file] = {"path": file, "type": "table"}
        self.tag("mlflow.loggedArtifacts", json.dumps(list(self._tables.values())))

    def file(self, file: Path) -> None:
        """As it is, under its own name."""
        self._try(lambda: self._client.log_artifact(self.spec.run_id, str(file)))

    def tag(self, name: str, value: str) -> None:
        self._try(lambda: self._client.set_tag(self.spec.run_id, name, value))

    def flush(self) -> None:
        """Send the metrics that wait; they wait on if the tracker does not answer."""
        self._sent = time.monotonic()
        self._try(self._send_waiting)

    def settle(self) -> None:
        """As `flush`, but a server that is away for a moment is waited for."""
        self._rest_until = 0.0
        self._try(self._send_waiting, self._patience)

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Send what waits and close the run, once, as the block of `open_run` does at its end."""
        if self._is_closed:
            return
        self._is_closed = True
        if status == "KILLED":
            self._patience = 0.0  # who tells us to stop does not wait long
        self.settle()
        if reason is not None:
            self.tag(REASON, reason[:LONGEST_VALUE])
        self._try(lambda: self._client.set_terminated(self.spec.run_id, status), self._patience)

    def _send_waiting(self) -> None:
        from mlflow.entities import Metric

        while self._waiting:
            self._client.log_batch(self.spec.run_id, metrics=[Metric(*values) for values in self._waiting[:BATCH]])
            del self._waiting[:BATCH]

    def _try(self, send: Callable[[], object], patience_seconds: float = 0.0) -> None:
        if time.monotonic() < self._rest_until:
            return
        handled = sys.exc_info()[1]  # while a failed run is closed: not MLflow's, but a part of its chain
        end = time.monotonic() + patience_seconds
        while True:
            try:
                send()
                return
            except _failures() as error:
                failure = error
            if time.monotonic() >= end:
                break
            time.sleep(1.0)
        self._rest_until = time.monotonic() + REST_SECONDS
        if not self._has_warned:
            say(
                f"trilemma: MLflow at {self.spec.uri}: {cause_of(failure, handled)}; the work goes on, its result is "
                f"kept; metrics wait until MLflow answers (asked every {REST_SECONDS:.0f} s), pictures do not"
            )
        self._has_warned = True


@dataclass(frozen=True)
class Tracker:
    """Where runs are kept, known to answer."""

    uri: str
    artifacts: str | None  # where new experiments put them; None: the server's own place

    @contextmanager
    def open_run(
        self,
        experiment: str,
        name: str,
        params: Mapping[str, str | int | float | bool | None],
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None = None,
        again: Mapping[str, str] | None = None,
    ) -> Iterator[Run]:
        """A run that ends with the block: FINISHED, FAILED with the reason as a tag, or KILLED if told to stop.

        params: few, to compare runs by. config: everything, kept as config.json. parent: run id of the sweep.
        again: tags of which there shall be one run only: if it is there, it is gone on with.
        """
        above = {} if parent is None else {PARENT: parent}
        with _explained(self.uri):
            client = _client(self.uri)
            from mlflow.entities import Param, RunTag

            home = experiment_id(client, experiment, self.artifacts)
            found = find_run(client, home, {**above, **again}) if again else None
            if found is None:
                run_id = client.create_run(
                    home, run_name=name, tags={**own_tags(), **above, **(again or {})}
                ).info.run_id
            else:
                run_id = found.info.run_id
                client.update_run(run_id, "RUNNING")
            own = [RunTag(*tag) for tag in {**tags, **own_tags()}.items()]
            client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()], tags=own)
            client.log_dict(run_id, dict(config), "config.json")
        spec = RunSpec(self.uri, run_id)
        run = Run(client, spec, set() if found is None else set(found.data.metrics))
        try:
            yield run
        except (KeyboardInterrupt, SystemExit) as stop:
            run.finish("KILLED", f"told to stop: {type(stop).__name__}")
            raise
        except BaseException as error:
            run.finish("FAILED", one_line(error))
            raise
        run.finish("FINISHED")


def connect(project: Path) -> Tracker:
    """The server at MLFLOW_TRACKING_URI, or else mlflow.db in `project`, made if need be.

    Closes what dead processes left open. A file serves one machine: several need a server, for SQLite does not work
    over a network.
    """
    uri = tracking_uri(project)
    with _explained(uri):
        create_missing_database(uri, _migrate)
        close_dead_runs(_client(uri))
    return Tracker(uri, None if is_server(uri) else str(artifact_folder(project)))


@contextmanager
def attach(spec: RunSpec) -> Iterator[Run]:
    """Log to a run that another process opened and will close."""
    refuse_absent(spec.uri)
    with _explained(spec.uri):
        client = _client(spec.uri)
        client.get_run(spec.run_id)
    run = Run(client, spec)
    try:
        yield run
    finally:
        run.settle()


def compare_page(project: Path, run_ids: Sequence[str]) -> str:
    """Address of the page that shows these runs side by side."""
    uri = tracking_uri(project)
    refuse_absent(uri)
    with _explained(uri):
        client = _client(uri)
        experiments = [client.get_run(run_id).info.experiment_id for run_id in run_ids]
    return compare_address(uri, run_ids, experiments)


def serve_ui(project: Path, port: int) -> None:
    """Become the server that shows the runs, until interrupted."""
    uri = tracking_uri(project)
    if is_server(uri):
        raise TrackingError(f"MLFLOW_TRACKING_URI is set: the runs are shown at {uri}")
    refuse_busy(port)
    with _explained(uri):
        create_missing_database(uri, _migrate)
    say(f"MLflow shows the runs at http://{UI_HOST}:{port} (Ctrl-C ends it)")
    os.execve(sys.executable, ui_command(project, port), SETTINGS | os.environ)


def _migrate(uri: str) -> None:
    """Make the schema there, with MLflow's own migrations."""
    _client(uri).search_experiments(max_results=1)


def _client(uri: str) -> "MlflowClient":
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # errors come as exceptions, too
    if not is_server(uri):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 5  # tries to connect, 3 s in all; MLflow's own 10 take 101
    return MlflowClient(uri, registry_uri=uri)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """What goes wrong with the tracker, in one line."""
    try:
        yield
    except _failures() as error:
        hint = "start that server, or unset MLFLOW_TRACKING_URI to track in this project"
        raise TrackingError(f"MLflow at {uri}: {cause_of(error)}{'; ' + hint if is_server(uri) else ''}") from error


def _failures() -> tuple[type[Exception], ...]:
    """How MLflow says that its server, database, database driver or disk fails."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError
