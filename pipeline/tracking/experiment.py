"""Runs of an MLflow experiment that may have been made elsewhere, and a tag on it."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.config.build import nearest, shown
from pipeline.tracking import backend

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_TAG_CHARACTERS = 5000  # of older servers; newer ones allow more
PAGE = 1000  # runs in one request


class LoggedRun(NamedTuple):
    id: str
    status: str  # FINISHED, FAILED, KILLED, RUNNING or SCHEDULED
    fields: dict[str, str | float]  # tags, parameters and last values of metrics; the later wins where names are equal


def read_runs(project: Path, experiment: str) -> list[LoggedRun]:
    """The oldest first, deleted ones not. experiment: its name or id, at MLFLOW_TRACKING_URI or in the project."""
    uri = _existing(project)
    with backend.tracking_errors(uri):
        client = backend.mlflow_client(uri)
        home, found, page = _id_of(client, experiment), [], None
        while True:
            page = client.search_runs([home], max_results=PAGE, order_by=["start_time ASC"], page_token=page)
            found += page
            if not (page := page.token):
                break
    return [LoggedRun(r.info.run_id, r.info.status, {**r.data.tags, **r.data.params, **r.data.metrics}) for r in found]


def tag_experiment(project: Path, experiment: str, name: str, value: str) -> None:
    """One request: the tag is written as a whole or not at all."""
    if len(value) > MAX_TAG_CHARACTERS:
        raise backend.TrackingError(f"--tag: {len(value)} characters, MLflow keeps {MAX_TAG_CHARACTERS}: fewer groups")
    uri = _existing(project)
    with backend.tracking_errors(uri):
        client = backend.mlflow_client(uri)
        client.set_experiment_tag(_id_of(client, experiment), name, value)


def _existing(project: Path) -> str:
    uri = backend.tracking_uri(project)
    file = backend.database_file(uri)
    if file is not None and not file.exists():
        raise backend.TrackingError(f"no {file.name} in {file.parent}: set MLFLOW_TRACKING_URI to where the runs are")
    return uri


def _id_of(client: "MlflowClient", experiment: str) -> str:
    known = {one.name: one.experiment_id for one in client.search_experiments()}
    known |= {id: id for id in known.values() if id not in known}
    if experiment not in known:
        names = [name for name in known if known[name] != name]
        raise backend.TrackingError(
            f"mlflow:{experiment}: no such experiment{nearest(experiment, names)}; there are {shown(', '.join(names))}"
        )
    return known[experiment]
