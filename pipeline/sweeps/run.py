"""`trilemma sweep`: every point and seed of a sweep that is not stored yet; its table, figure and verdict."""

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from filelock import FileLock, Timeout
from matplotlib.figure import Figure

from pipeline.console import say
from pipeline.data.artifacts import digest_of
from pipeline.errors import TrilemmaError, UserError
from pipeline.launch.launcher import InProcess
from pipeline.metrics.card import METRICS
from pipeline.store.open import open_store
from pipeline.sweeps.entry import Sweep, trained_entry
from pipeline.sweeps.selection import PointSeeds, race
from pipeline.sweeps.summary import SweepVerdict, headline, table, verdict
from pipeline.sweeps.trial import Report, SweepContext, TrialResult, metrics_of, run_trial
from pipeline.sweeps.trials import PlannedSweep, Trial, code_of, description
from pipeline.tracking.mlflow_run import Run, Tracker, connect

Execute: TypeAlias = Callable[[list[Trial], SweepContext, Report], None]
Write: TypeAlias = Callable[[pd.DataFrame, Sweep, SweepVerdict, Path], tuple[list[Path], Figure]]
SWEEP, PLAN = "trilemma.sweep", "trilemma.plan"  # tags of the parent run: the same sweep continues in the same run


def run_sweep(planned: PlannedSweep, concurrent: int, address: str | None, write: Write) -> dict[str, Any]:
    """Run the trials; the sweep's verdict and files. write: writes the table, the figure and the page."""
    study, name, sweep, trials, races = planned
    with ExitStack() as stack:
        stack.enter_context(_locked(_folder(planned), name))
        stack.callback(connect, study.root)  # closes the runs of trials whose process was killed, or ended with Ray
        execute = stack.enter_context(_executor(concurrent, address))
        execute = _racing(sweep, execute) if races else execute
        results = dict[str, TrialResult]()
        with _opened(planned) as (run, context):
            execute(trials, context, partial(_note, results, f"sweep {name}", len(trials)))
            summary = _summarise(planned, context, results, run, write)
            shutil.rmtree(context.results, ignore_errors=True)
            if failed := [result for result in results.values() if result.error]:
                raise TrilemmaError(
                    f"{len(failed)} of {len(trials)} trials failed, first {failed[0].trial}: {failed[0].error}; the "
                    f"others are in {study.folder / summary['files'][0]}; run it again"
                )
    return summary


def run_trials(planned: PlannedSweep, numbers: Collection[int]) -> None:
    """Compute these trials into the store, beside other processes that compute others; `run_sweep` finds them there.

    It tries those that fail here again.
    """
    results = dict[str, TrialResult]()
    with _opened(planned) as (_, context):
        chosen = [planned.trials[number] for number in numbers]
        _one_by_one(chosen, context, partial(_note, results, f"sweep {planned.name}", len(chosen)))


def _folder(planned: PlannedSweep) -> Path:
    return planned.study.root / ".trilemma" / "sweeps" / planned.study.name / planned.name


@contextmanager
def _opened(planned: PlannedSweep) -> Iterator[tuple[Run, SweepContext]]:
    """The parent run, and what the trials share."""
    study, folder, tracker = planned.study, _folder(planned), connect(planned.study.root)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with FileLock(folder / ".parent.lock"):  # otherwise two processes could make two parents
            run = stack.enter_context(_parent_run(tracker, planned))
        store, code = open_store(study).uri, code_of(planned.trials)
        yield run, SweepContext(planned.name, tracker, run.spec.run_id, store, folder / "results", code)


def _parent_run(tracker: Tracker, planned: PlannedSweep) -> AbstractContextManager[Run]:
    """The MLflow run above those of the trials."""
    study, name, sweep, trials, _ = planned
    of = sweep.entries[0]
    experiment = f"{study.name}/{trained_entry(study, of).dataset}"
    params = {"sweep": name, "field": sweep.field, "trials": len(trials)}
    again = {SWEEP: name, PLAN: digest_of(description(trials))}
    return tracker.open_run(experiment, f"sweep {name}", params, {"of": of}, {}, again=again)


def _summarise(
    planned: PlannedSweep, context: SweepContext, results: dict[str, TrialResult], run: Run, write: Write
) -> dict[str, Any]:
    """Table, figure and verdict of the trials that did not fail, as files and in the tracker."""
    study, name, sweep, trials, _ = planned
    keys = {trial: result.key for trial, result in results.items() if result.key}
    contents = {t.id: metrics_of(t, context.artifact(keys[t.id]).path) for t in trials if t.id in keys}
    if not contents:
        first = next(iter(results.values()))
        raise TrilemmaError(f"all {len(trials)} trials failed, first {first.trial}: {first.error}")
    rows, conclusion = table(sweep, trials, contents), verdict(sweep, trials, contents)
    files, figure = write(rows, sweep, conclusion, study.folder / "reports")
    run.table("table.json", rows)
    run.picture("figure.png", figure)
    run.tag("verdict", conclusion.text)
    names = [str(file.relative_to(study.folder)) for file in files]
    return {
        "sweep": name, "trials": list(results), "verdict": conclusion.text, "winner": conclusion.winner, "files": names
    }  # fmt: skip


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Excludes another run of the same sweep, which would remove the results of this one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"sweep {name} runs in this study already: wait for it, or stop it; --concurrent N has N trials at once"
        ) from None
    with lock:
        yield


def _note(results: dict[str, TrialResult], label: str, trials: int, result: TrialResult) -> None:
    results[result.trial] = result
    end = f"failed: {result.error}" if result.error else "done"
    say(f"{label}: {len(results)} of {trials}: {result.trial}: {end}")


@contextmanager
def _executor(concurrent: int, address: str | None) -> Iterator[Execute]:
    """concurrent 0: trial by trial in this process; N: by Ray Tune, N at a time."""
    if concurrent < 0:
        raise UserError(f"--concurrent {concurrent}: 0 runs in this process, N has Ray Tune run N trials at a time")
    if concurrent == 0:
        if address is not None:
            raise UserError(f"the cluster at {address} was given: set with --concurrent how many trials run at a time")
        yield _one_by_one
        return
    from pipeline.sweeps.ray_tune import tune_trials  # here, so that a sweep in this process never imports Ray

    with tune_trials(concurrent, address) as execute:
        yield execute


def _one_by_one(trials: list[Trial], context: SweepContext, report: Report) -> None:
    for trial in trials:
        report(run_trial(trial, context, InProcess()))


def _racing(sweep: Sweep, execute: Execute) -> Execute:
    """As many trials as `seeds` for every point, but with more seeds where the best point is in doubt."""
    better = METRICS[sweep.metric].better
    if better is None:
        raise UserError(f"--race: no value of {sweep.metric} is better than another: choose another `metric:`")

    def run(trials: list[Trial], context: SweepContext, report: Report) -> None:
        by_point = {(trial.point.label, trial.seed): trial for trial in trials}
        points = list(dict.fromkeys(trial.point.label for trial in trials))

        def measure(seeded: PointSeeds) -> list[float | None]:
            chosen, keys = [by_point[point] for point in seeded], dict[str, str | None]()

            def note(result: TrialResult) -> None:
                keys[result.trial] = result.key
                report(result)

            execute(chosen, context, note)
            stored = [(trial, context.artifact(key).path if (key := keys[trial.id]) else None) for trial in chosen]
            return [None if path is None else headline(sweep, trial, metrics_of(trial, path)) for trial, path in stored]

        race(points, measure, sweep.seeds * len(points), len(trials) // len(points), better)

    return run
