"""One trial of a sweep, in whatever process: what is missing of it is computed, the rest comes from the store."""

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock

from pipeline.console import say
from pipeline.context import Launch
from pipeline.dag.graph import STAGES, Call
from pipeline.dag.resolve import key_if_known
from pipeline.dag.run import compute, outside, stage_config, tidy_up
from pipeline.dag.usage import Meter
from pipeline.data.artifacts import MANIFEST, Artifact, Manifest, digest_of, read_artifact
from pipeline.errors import TrilemmaError
from pipeline.metrics.card import METRICS_FILE
from pipeline.store.store import Store
from pipeline.sweeps.entry import is_stacked, trained_entry
from pipeline.sweeps.overrides import evaluated
from pipeline.sweeps.trials import Trial

if TYPE_CHECKING:
    from pipeline.tracking.mlflow_run import Run, Tracker


TRIAL = "trilemma.trial"  # tag of a child: one of a kind below its parent


class Outcome(NamedTuple):
    """What a trial left: the key of what `evaluate` made, or what went wrong twice."""

    trial: str
    key: str | None
    error: str | None = None


@dataclass(frozen=True)
class Sweeping:
    """What all trials of a sweep share; can be sent to other processes."""

    name: str
    tracker: "Tracker"
    parent: str  # run id
    store_uri: str
    shelf: Path  # results of this machine, by key

    @cached_property
    def store(self) -> Store:
        return Store(self.store_uri)

    def artifact(self, key: str) -> Artifact:
        """The result of a key, fetched once for all trials."""
        path = self.shelf / key
        self.shelf.mkdir(parents=True, exist_ok=True)
        with FileLock(self.shelf / f".{key}.lock"):
            found = read_artifact(path) if (path / MANIFEST).is_file() else self.store.fetch(key, path)
        if found is None:
            raise TrilemmaError(f"the store lost the result {key[:12]}: run the sweep again")
        return found

    def measured(self, trial: Trial, key: str) -> dict[str, Any]:
        return content_of(trial, self.artifact(key).path)


def content_of(trial: Trial, evaluated: Path) -> dict[str, Any]:
    """What `evaluate` found; of a stack, of this trial's point and seed."""
    content = json.loads((evaluated / METRICS_FILE).read_text())
    if not is_stacked(trial.study, trial.point.of):
        return content
    return content[trial.point.label][trial.seed]


def run_trial(trial: Trial, sweeping: Sweeping, launch: Launch, has_failed: bool = False) -> Outcome:
    """Tried twice; nothing but an end of the process leaves this function as an exception."""
    try:
        with _child(trial, sweeping) as run:
            work = _Work(trial, sweeping, launch, run)
            key = work.evaluation()
            _log_once(run, sweeping.measured(trial, key), work)
            return Outcome(trial.id, key)
    except Exception as error:
        line = f"{type(error).__name__}: {error}" if not isinstance(error, TrilemmaError) else str(error)
        where = "".join(traceback.format_exception(error)[-2:-1]).strip().replace("\n", "; ")
        if not has_failed:
            say(f"trial {trial.id} failed ({line}; {where}): once more")
            return run_trial(trial, sweeping, launch, has_failed=True)
        return Outcome(trial.id, None, line)


class _Work:
    """The chain of one trial, call by call."""

    def __init__(self, trial: Trial, sweeping: Sweeping, launch: Launch, run: "Run") -> None:
        self.trial, self.sweeping, self.launch, self.run = trial, sweeping, launch, run
        self.keys: dict[Path, str] = {}  # by the out that a call has in the study
        self.manifests: dict[Path, Manifest] = {}
        self.reused: list[str] = []
        self.cost = {"seconds": 0.0, "cpu_seconds": 0.0}

    def evaluation(self) -> str:
        """Its key."""
        calls = evaluated(self.trial.study, self.trial.point.of)
        for call in calls:
            inputs = {role: self.manifests[path] for role, path in call.made.items()}
            key = key_if_known(self.trial.study, call, inputs)
            assert key is not None
            self.keys[call.out], self.manifests[call.out] = key, self._result(call, key)
        return self.keys[calls[-1].out]

    def _result(self, call: Call, key: str) -> Manifest:
        store = self.sweeping.store
        found = store.manifest(key)
        if found is None:
            with store.lease(key):
                found = store.manifest(key)  # somebody else may have finished it while we waited
                if found is None:
                    return self._compute(call, key)
        tidy_up(self.trial.study.root, call, key, store)
        self.reused.append(f"{call.stage} {call.name}")
        return found

    def _compute(self, call: Call, key: str) -> Manifest:
        from pipeline.launch.determinism import reproducible
        from pipeline.tracking.watch import Watch

        sweeping, meter = self.sweeping, Meter()
        inputs = outside(self.trial.study, call)
        inputs |= {role: sweeping.artifact(self.keys[path]) for role, path in call.made.items()}
        here = replace(call, out=sweeping.shelf / key)
        label, unit = f"{self.trial.id}: {call.stage}", STAGES[call.verb].unit
        watch = Watch(self.run.spec, label, unit, call.stage)
        told = {"sweep": sweeping.name, "trial": self.trial.id}
        with reproducible(), watch.opened(self.run):
            config = stage_config(call)
            spent = compute(here, config, key, sweeping.store, inputs, meter, self.launch, watch, told)
        self.cost = {name: value + (spent[name] or 0.0) for name, value in self.cost.items()}
        made = sweeping.store.manifest(key)
        assert made is not None, "it was just put there"
        return made


@contextmanager
def _child(trial: Trial, sweeping: Sweeping) -> Iterator["Run"]:
    """The trial's run below the sweep's: made, or gone on with after a kill."""
    study, of = trial.study, trial.point.of
    run = trained_entry(study, of)
    params = {"method": run.method, "dataset": run.dataset, "entry": of, "seed": trial.seed}
    values = {name: str(value) if isinstance(value, list) else value for name, value in trial.point.values.items()}
    calls = {f"{call.stage} {call.name}": call.config for call in evaluated(study, of)}
    with sweeping.tracker.open_run(
        f"{study.name}/{run.dataset}",
        trial.id,
        params | values,
        calls,
        {"sweep": sweeping.name},
        sweeping.parent,
        {TRIAL: digest_of(trial.id)},
    ) as opened:
        yield opened


def _log_once(run: "Run", content: dict[str, Any], work: _Work) -> None:
    if not any(name.startswith("eval/") for name in run.has):
        values = {f"{row['metric']} {row['card']['extractor']}": fmean(row["values"]) for row in content["metrics"]}
        run.log({f"eval/{name}": value for name, value in (values | content["counts"]).items()}, 0)
        run.log({f"cost/{name}": value for name, value in work.cost.items()}, 0)
    run.tag("reused", ", ".join(work.reused))
