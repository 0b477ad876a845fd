"""One trial of a sweep, in any process: the missing results are computed, the others come from the store."""

import json
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from filelock import FileLock

from pipeline.console import one_line, say
from pipeline.context import Launch
from pipeline.dag.code_version import Code
from pipeline.dag.graph import STAGES, Call
from pipeline.dag.resolve import key_if_known
from pipeline.dag.run import Execution, Finished, external_inputs, finish
from pipeline.data.artifacts import MANIFEST, Artifact, digest_of, read_artifact
from pipeline.errors import TrilemmaError
from pipeline.metrics.card import METRICS_FILE
from pipeline.store.store import Store
from pipeline.sweeps.entry import is_stacked, trained_entry
from pipeline.sweeps.overrides import evaluated
from pipeline.sweeps.trials import Trial
from pipeline.tracking.mlflow_run import Run, Tracker
from pipeline.tracking.watch import Watch

TRIAL = "trilemma.trial"  # tag of a child run: its value is unique below the parent


class TrialResult(NamedTuple):
    """The key of the evaluation, or the error of the second try."""

    trial: str
    key: str | None
    error: str | None = None


Report = Callable[[TrialResult], None]


@dataclass(frozen=True)
class SweepContext:
    """What all trials of a sweep share; can be sent to other processes."""

    sweep: str
    tracker: Tracker
    parent: str  # run id
    store_uri: str
    results: Path  # a folder of this machine: artifacts by key
    code: Code  # of all trials, whose processes may start later

    @cached_property
    def store(self) -> Store:
        return Store(self.store_uri)

    def artifact(self, key: str) -> Artifact:
        """The result of a key, fetched once for all trials."""
        path = self.results / key
        self.results.mkdir(parents=True, exist_ok=True)
        with FileLock(self.results / f".{key}.lock"):
            artifact = read_artifact(path) if (path / MANIFEST).is_file() else self.store.fetch(key, path)
        if artifact is None:
            raise TrilemmaError(f"the store lost the result {key[:12]}: run the sweep again")
        return artifact


def metrics_of(trial: Trial, evaluation: Path) -> dict[str, Any]:
    """The content of metrics.json; of a stack, the part of this trial's point and seed."""
    content = json.loads((evaluation / METRICS_FILE).read_text())
    return content[trial.point.label][trial.seed] if is_stacked(trial.study, trial.point.of) else content


def run_trial(trial: Trial, context: SweepContext, launch: Launch) -> TrialResult:
    """Run a trial, try once more if it fails, and return the error's text instead of raising the second error."""
    try:
        return _run_once(trial, context, launch)
    except Exception as error:
        where = "".join(traceback.format_exception(error)[-2:-1]).strip().replace("\n", "; ")
        say(f"trial {trial.id} failed ({one_line(error)}; {where}): once more")
    try:
        return _run_once(trial, context, launch)
    except Exception as error:
        return TrialResult(trial.id, None, one_line(error))


def _run_once(trial: Trial, context: SweepContext, launch: Launch) -> TrialResult:
    context.code.check()
    study, calls = trial.study, evaluated(trial.study, trial.point.of)
    finished: dict[Path, Finished] = {}  # by `out` of the study's call

    def inputs(call: Call) -> dict[str, Artifact]:
        made = {role: context.artifact(finished[path].key) for role, path in call.made.items()}
        return external_inputs(study, call) | made

    def watch(call: Call, key: str, launch: Launch) -> AbstractContextManager[Watch]:
        return Watch(run.spec, f"{trial.id}: {call.stage}", STAGES[call.verb].unit, call.stage).opened(run)

    words = {"sweep": context.sweep, "trial": trial.id}
    execution = Execution(study, context.store, inputs, lambda call: nullcontext(launch), watch, context.results, words)
    with _child_run(trial, context, calls) as run:
        for call in calls:
            key = key_if_known(study, call, {role: finished[path].manifest for role, path in call.made.items()})
            assert key is not None, "all inputs are finished"
            finished[call.out] = finish(call, key, execution)
        evaluation, costs = finished[calls[-1].out].key, [one.cost for one in finished.values() if one.cost]
        reused = ", ".join(f"{call.stage} {call.name}" for call in calls if finished[call.out].cost is None)
        _log_once(run, metrics_of(trial, context.artifact(evaluation).path), costs, reused)
    return TrialResult(trial.id, evaluation)


def _child_run(trial: Trial, context: SweepContext, calls: list[Call]) -> AbstractContextManager[Run]:
    """The trial's run below the sweep's: new, or the same one after a kill."""
    of, entry = trial.point.of, trained_entry(trial.study, trial.point.of)
    params = {"method": entry.method, "dataset": entry.dataset, "entry": of, "seed": trial.seed}
    values = {name: str(value) if isinstance(value, list) else value for name, value in trial.point.values.items()}
    return context.tracker.open_run(
        f"{trial.study.name}/{entry.dataset}",
        trial.id,
        params | values,
        {f"{call.stage} {call.name}": call.config for call in calls},
        {"sweep": context.sweep},
        context.parent,
        {TRIAL: digest_of(trial.id)},
    )


def _log_once(run: Run, content: dict[str, Any], costs: list[dict[str, Any]], reused: str) -> None:
    if any(name.startswith("eval/") for name in run.has):
        return
    values = {f"{row['metric']} {row['card']['extractor']}": fmean(row["values"]) for row in content["metrics"]}
    run.log({f"eval/{name}": value for name, value in (values | content["counts"]).items()}, 0)
    run.log({f"cost/{name}": sum(cost[name] or 0.0 for cost in costs) for name in ("seconds", "cpu_seconds")}, 0)
    run.tag("reused", reused)
