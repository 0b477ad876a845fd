"""Experiments and runs by their tags: who owns a run, and closing the runs of processes that have ended."""

from collections.abc import Mapping
from typing import Any

from pipeline.console import say
from pipeline.store.process_id import ProcessId
from pipeline.tracking.backend import end_note, without_retries

HOST, PID, STARTED, REASON = "trilemma.host", "trilemma.pid", "trilemma.started", "trilemma.reason"
PARENT = "mlflow.parentRunId"  # by which the UI nests runs


def owner_tags() -> dict[str, str]:
    """This process as the owner of a run."""
    host, pid, started = ProcessId.current()
    return {HOST: host, PID: str(pid), STARTED: str(started)}


def experiment_id(client: Any, name: str, artifacts: str | None) -> str:
    """The id of the experiment, which is made, with its artifacts there, if it is missing."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process made it at the same time
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
        say(f"trilemma: experiment {name} had been deleted in MLflow: restored")
    return experiment.experiment_id


def find_run(client: Any, experiment: str, tags: Mapping[str, str]) -> Any:
    """The oldest run of an experiment (its id) with all these tags, or None."""
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    runs = client.search_runs([experiment], query, max_results=1, order_by=["attributes.start_time ASC"])
    return runs[0] if runs else None


def close_abandoned_runs(client: Any, uri: str) -> None:
    """Runs of this machine that are RUNNING although their process has ended become KILLED, or what `end_note` has."""
    query = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{ProcessId.current().host}'"
    with without_retries():
        experiments = [experiment.experiment_id for experiment in client.search_experiments(max_results=1000)]
    for run in client.search_runs(experiments, query, max_results=1000):
        tags, run_id = run.data.tags, run.info.run_id
        owner = ProcessId(tags[HOST], int(tags[PID]), float(tags[STARTED]))
        if not owner.is_alive():
            note, status = end_note(uri, run_id), "KILLED"
            if note is not None and note.is_file():
                status = note.read_text()
            else:
                client.set_tag(run_id, REASON, f"{owner} is gone without having closed its run")
            histories = (client.get_metric_history(run_id, name) for name in run.data.metrics)
            logged = (metric.timestamp for history in histories for metric in history)  # ms since the epoch
            client.set_terminated(run_id, status, end_time=max(logged, default=run.info.start_time))
            if note is not None:
                note.unlink(missing_ok=True)
