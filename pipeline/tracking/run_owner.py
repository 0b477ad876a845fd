"""Whose a run in the tracker is, and the end of those whose process is gone; through a client made in `tracking`."""

from collections.abc import Mapping
from typing import Any

from pipeline.console import say
from pipeline.store.process_id import ProcessId
from pipeline.tracking.backend import asked_once

HOST, PID, STARTED, REASON = "trilemma.host", "trilemma.pid", "trilemma.started", "trilemma.reason"
PARENT = "mlflow.parentRunId"  # by which the UI nests runs


def own_tags() -> dict[str, str]:
    """By which others see that we are at it."""
    host, pid, started = ProcessId.current()
    return {HOST: host, PID: str(pid), STARTED: str(started)}


def experiment_id(client: Any, name: str, artifacts: str | None) -> str:
    """Of the experiment, made if need be, with its artifacts there."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process made it in this very moment
            assert found is not None
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
        say(f"trilemma: experiment {name} had been deleted in MLflow: restored")
    return found.experiment_id


def find_run(client: Any, experiment: str, tags: Mapping[str, str]) -> Any:
    """The oldest run of an experiment (its id) with all these tags, or None."""
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = client.search_runs([experiment], wanted, max_results=1, order_by=["attributes.start_time ASC"])
    return found[0] if found else None


def close_dead_runs(client: Any) -> list[str]:
    """Runs of this machine that are left RUNNING by a process that is gone become KILLED; their ids."""
    mine = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{ProcessId.current().host}'"
    with asked_once():
        experiments = [experiment.experiment_id for experiment in client.search_experiments(max_results=1000)]
    closed = []
    for run in client.search_runs(experiments, mine, max_results=1000):
        tags = run.data.tags
        owner = ProcessId(tags[HOST], int(tags[PID]), float(tags[STARTED]))
        if not owner.is_alive():
            client.set_tag(run.info.run_id, REASON, f"{owner} is gone without having closed its run")
            client.set_terminated(run.info.run_id, "KILLED", end_time=_last_heard(client, run))
            closed.append(run.info.run_id)
    return closed


def _last_heard(client: Any, run: Any) -> int:
    """When its newest metric was logged, or else when it began, in milliseconds since the epoch."""
    histories = (client.get_metric_history(run.info.run_id, name) for name in run.data.metrics)
    return max((metric.timestamp for history in histories for metric in history), default=run.info.start_time)
