"""Runs in MLflow, which is for looking and comparing; results are kept by the store.

So a tracker that does not answer stops a command when its run is opened, before any work; later it costs one warning,
never the result.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pipeline.console import one_line, redacted, say
from pipeline.errors import StoreError
from pipeline.store.files import write_file
from pipeline.tracking import backend
from pipeline.tracking.run_owner import PARENT, REASON, close_abandoned_runs, experiment_id, find_run, owner_tags

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient


METRIC = re.compile(r"(train|eval|cost)/[\w. -]+")  # a prefix is a chapter in the UI
MAX_METRICS_PER_REQUEST = 1000  # MLflow's limit
FLUSH_SECONDS = 5.0
RETRY_SECONDS = 60.0  # a server that restarts, at the end of a run
PAUSE_SECONDS = 60.0  # after a failure, until the next request
MAX_REASON_CHARACTERS = 500

Status: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class RunSpec:
    """Where a run is kept. Can be sent to another process, which logs to the run by `attach`."""

    uri: str
    run_id: str


class Run:
    """An open run. Metrics are buffered; failures of the tracker are retried, then warned of once."""

    def __init__(self, client: "MlflowClient", spec: RunSpec, has: Collection[str] = ()) -> None:
        self.spec = spec
        self.has = has  # metrics that it had when it was opened again
        self._client = client
        self._buffer: list[tuple[str, float, int, int]] = []  # name, value, milliseconds since the epoch, step
        self._tables: dict[str, dict[str, str]] = {}
        self._sent_at = time.monotonic()
        self._paused_until = 0.0
        self._has_warned = self._is_closed = False
        self._retry_seconds = RETRY_SECONDS if backend.is_server(spec.uri) else 0.0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Names begin with train/, eval/ or cost/. Sent together every few seconds, and at the end."""
        for name in metrics:
            if not METRIC.fullmatch(name):
                raise ValueError(f"metric {name!r}: one word after train/, eval/ or cost/ was wanted")
        now = int(time.time() * 1000)
        self._buffer += [(name, float(value), now, step) for name, value in metrics.items()]
        if len(self._buffer) >= MAX_METRICS_PER_REQUEST or time.monotonic() - self._sent_at > FLUSH_SECONDS:
            self.flush()

    def images(self, key: str, image: "np.ndarray", step: int) -> None:
        """One of a series of images that the UI shows with a slider. image: uint8 [H, W] or [H, W, 3]."""
        self._try(lambda: self._client.log_image(self.spec.run_id, image, key=key, step=step))

    def picture(self, file: str, picture: "np.ndarray | Figure") -> None:
        """A single image, named such as "paths.png": uint8 [H, W] or [H, W, 3], or a figure."""
        log = self._client.log_figure if hasattr(picture, "savefig") else self._client.log_image
        self._try(lambda: log(self.spec.run_id, picture, file))  # type: ignore[arg-type]

    def table(self, file: str, table: "pd.DataFrame") -> None:
        """file: ends in .json; replaced if it exists. The UI can compare tables between runs."""
        content = json.loads(str(table.to_json(orient="split", index=False)))
        self._try(lambda: self._client.log_dict(self.spec.run_id, content, file))
        self._tables[file] = {"path": file, "type": "table"}
        self.tag("mlflow.loggedArtifacts", json.dumps(list(self._tables.values())))

    def file(self, file: Path) -> None:
        self._try(lambda: self._client.log_artifact(self.spec.run_id, str(file)))

    def tag(self, name: str, value: str) -> None:
        self._try(lambda: self._client.set_tag(self.spec.run_id, name, value))

    def flush(self) -> None:
        """Send the buffered metrics; they stay buffered if the tracker does not answer."""
        self._sent_at = time.monotonic()
        self._try(self._send_buffer)

    def settle(self) -> None:
        """As `flush`, but wait for a server that restarts."""
        self._paused_until = 0.0
        self._try(self._send_buffer, self._retry_seconds)

    def finish(self, status: Status, reason: str | None = None) -> None:
        """Send what is buffered and close the run, as the block of `open_run` does at its end; once."""
        if self._is_closed:
            return
        self._is_closed = True
        if status == "KILLED":
            self._retry_seconds = 0.0  # a terminated process has little time
        self.settle()
        if reason is not None:
            self.tag(REASON, redacted(reason)[:MAX_REASON_CHARACTERS])
        is_closed = self._try(lambda: self._client.set_terminated(self.spec.run_id, status), self._retry_seconds)
        if not is_closed and (note := backend.end_note(self.spec.uri, self.spec.run_id)):
            with suppress(StoreError, OSError):  # the work's result is kept without it
                write_file(note, status)  # for the next command, which closes the run

    def _send_buffer(self) -> None:
        from mlflow.entities import Metric

        while batch := self._buffer[:MAX_METRICS_PER_REQUEST]:
            self._client.log_batch(self.spec.run_id, metrics=[Metric(*values) for values in batch])
            del self._buffer[: len(batch)]

    def _try(self, send: Callable[[], object], retry_seconds: float = 0.0) -> bool:
        """Whether it was sent."""
        if time.monotonic() < self._paused_until:
            return False
        handled = sys.exc_info()[1]  # the work's own error while a failed run is closed: a part of MLflow's chain
        end = time.monotonic() + retry_seconds
        while True:
            try:
                send()
                return True
            except backend.mlflow_failures() as error:
                failure = error
            if time.monotonic() >= end:
                break
            time.sleep(1.0)
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        if not self._has_warned:
            cause = backend.first_cause(failure, handled)
            say(
                f"trilemma: MLflow at {self.spec.uri}: {cause}; the work goes on, its result is kept; metrics wait "
                f"until MLflow answers (tried every {PAUSE_SECONDS:.0f} s), pictures do not"
            )
        self._has_warned = True
        return False


@dataclass(frozen=True)
class Tracker:
    """Where runs are kept; it has answered."""

    uri: str
    artifacts: str | None  # where new experiments put them; None: where the server keeps them

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
        """A run that ends with the block: FINISHED, FAILED with the reason as a tag, or KILLED at SIGTERM or Ctrl-C.

        params: few, to compare runs by. config: everything, kept as config.json. parent: run id of the sweep.
        again: tags of which only one run may exist: that run, if there is one, is opened again.
        """
        identity = {**({} if parent is None else {PARENT: parent}), **(again or {})}
        with backend.tracking_errors(self.uri):
            client = backend.mlflow_client(self.uri)
            from mlflow.entities import Param, RunTag

            home = experiment_id(client, experiment, self.artifacts)
            earlier = find_run(client, home, identity) if again else None
            if earlier is None:
                run_id = client.create_run(home, run_name=name, tags={**owner_tags(), **identity}).info.run_id
            else:
                run_id = earlier.info.run_id
                client.update_run(run_id, "RUNNING")
            entities = [RunTag(*tag) for tag in {**tags, **owner_tags()}.items()]
            client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()], tags=entities)
            client.log_dict(run_id, dict(config), "config.json")
        run = Run(client, RunSpec(self.uri, run_id), set() if earlier is None else set(earlier.data.metrics))
        try:
            yield run
        except (KeyboardInterrupt, SystemExit) as stop:
            run.finish("KILLED", f"stopped: {type(stop).__name__}")
            raise
        except BaseException as error:
            run.finish("FAILED", one_line(error))
            raise
        run.finish("FINISHED")


def connect(project: Path) -> Tracker:
    """The server at MLFLOW_TRACKING_URI, or else mlflow.db in `project`, made if it is missing.

    Closes runs that killed processes left open. A file serves one machine; several need a server, because SQLite does
    not work over a network.
    """
    uri = backend.tracking_uri(project)
    with backend.tracking_errors(uri):
        backend.create_missing_database(uri)
        close_abandoned_runs(backend.mlflow_client(uri), uri)
    return Tracker(uri, None if backend.is_server(uri) else str(backend.artifact_folder(project)))


@contextmanager
def attach(spec: RunSpec) -> Iterator[Run]:
    """Log to a run that another process opened and will close."""
    backend.refuse_absent(spec.uri)
    with backend.tracking_errors(spec.uri):
        client = backend.mlflow_client(spec.uri)
        client.get_run(spec.run_id)
    run = Run(client, spec)
    try:
        yield run
    finally:
        run.settle()
