"""`trilemma sweep`: every point and seed of a sweep that is not there already; its table, figure and verdict."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from filelock import FileLock, Timeout

from pipeline.config.study import Study
from pipeline.console import say
from pipeline.dag.run import own_study
from pipeline.data.artifacts import digest_of
from pipeline.errors import TrilemmaError, UserError
from pipeline.launch.signals import on_sigterm
from pipeline.metrics.card import METRICS
from pipeline.store.open import open_store
from pipeline.sweeps.entry import Sweep, find_sweep, trained_entry
from pipeline.sweeps.trials import Trial, as_json, description, plan, trials_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pipeline.sweeps.selection import Asked
    from pipeline.sweeps.summary import Verdict
    from pipeline.sweeps.trial import Outcome, Sweeping


Execute: TypeAlias = "Callable[[list[Trial], Sweeping, Callable[[Outcome], None]], None]"
Write: TypeAlias = "Callable[[pd.DataFrame, Sweep, Verdict, Path], tuple[list[Path], Figure]]"
SWEEP, PLAN = "trilemma.sweep", "trilemma.plan"  # tags of the parent: the same sweep goes on in the same run


def run_sweep(
    name: str,
    of: str | None,
    values: str | None,
    seeds: int | None,
    races: bool,
    concurrent: int,
    address: str | None,
    dry_run: bool,
    as_text: Callable[[dict[str, Any]], None],
    write: "Write",
) -> None:
    """Run a sweep of the study in this folder. write: leaves the table, the figure and the page."""
    on_sigterm()
    study = own_study(Path.cwd())
    sweep = find_sweep(study, name, of, values, seeds)
    trials = trials_of(study, sweep, f"sweeps.{name}", races)
    folder = study.root / ".trilemma" / "sweeps" / study.name / name
    store = open_store(study)
    if dry_run:
        as_text(as_json(trials, plan(trials, store).values(), store))
        return
    with _alone(folder, name), _closing_runs(study), _executor(concurrent, address) as execute:
        as_text(_run(study, name, sweep, trials, folder, _racing(sweep, execute) if races else execute, write))


def _run(
    study: Study,
    name: str,
    sweep: Sweep,
    trials: list[Trial],
    folder: Path,
    execute: "Execute",
    write: "Write",
) -> dict[str, Any]:
    from pipeline.sweeps.summary import table, verdict
    from pipeline.sweeps.trial import Sweeping
    from pipeline.tracking.mlflow_run import connect

    of = sweep.entries[0]
    dataset = trained_entry(study, of).dataset
    tracker = connect(study.root)
    tags = {SWEEP: name, PLAN: digest_of(description(trials))}
    params = {"sweep": name, "field": sweep.field, "trials": len(trials)}
    outcomes: dict[str, Outcome] = {}
    opened = tracker.open_run(f"{study.name}/{dataset}", f"sweep {name}", params, {"of": of}, {}, again=tags)
    with opened as run:
        sweeping = Sweeping(name, tracker, run.spec.run_id, _uri(study), folder / "results")
        execute(trials, sweeping, partial(_note, outcomes, f"sweep {name}", len(trials)))
        keys = {trial: found.key for trial, found in outcomes.items() if found.key}
        contents = {trial.id: sweeping.measured(trial, keys[trial.id]) for trial in trials if trial.id in keys}
        errors = [found for found in outcomes.values() if found.error]
        if not contents:
            raise TrilemmaError(f"all {len(trials)} trials failed, first {errors[0].trial}: {errors[0].error}")
        rows, says = table(sweep, trials, contents), verdict(sweep, trials, contents)
        files, figure = write(rows, sweep, says, study.folder / "reports")
        run.table("table.json", rows)
        run.picture("figure.png", figure)
        run.tag("verdict", says.text)
        shutil.rmtree(folder / "results", ignore_errors=True)
        if errors:
            raise TrilemmaError(
                f"{len(errors)} of {len(trials)} trials failed, first {errors[0].trial}: {errors[0].error}; the others "
                f"are in {files[0]}; run it again"
            )
    return {
        "sweep": name,
        "trials": list(outcomes),
        "verdict": says.text,
        "winner": says.winner,
        "files": [str(file.relative_to(study.folder)) for file in files],
    }


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Another run of the same sweep would remove the results of this one."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"sweep {name} runs in this study already: wait for it, or stop it; --concurrent N has N trials at once"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _closing_runs(study: Study) -> Iterator[None]:
    """Afterwards, the runs of trials whose process was killed, or ended with Ray, are closed."""
    try:
        yield
    finally:
        from pipeline.tracking.mlflow_run import connect

        connect(study.root)


def _note(outcomes: "dict[str, Outcome]", label: str, trials: int, outcome: "Outcome") -> None:
    outcomes[outcome.trial] = outcome
    end = f"failed: {outcome.error}" if outcome.error else "done"
    say(f"{label}: {len(outcomes)} of {trials}: {outcome.trial}: {end}")


def _uri(study: Study) -> str:
    """The same store for every process, wherever it runs."""
    uri = open_store(study).uri
    return uri if "://" in uri else str(Path(uri).absolute())


@contextmanager
def _executor(concurrent: int, address: str | None) -> "Iterator[Execute]":
    """concurrent 0: trial by trial in this process; N: by Ray Tune, N at a time."""
    if concurrent < 0:
        raise UserError(f"--concurrent {concurrent}: 0 runs in this process, N has Ray Tune run N trials at a time")
    if concurrent == 0:
        if address is not None:
            raise UserError(f"the cluster at {address} was given: say with --concurrent how many trials run at a time")
        yield _one_by_one
        return
    from pipeline.sweeps.ray_tune import tune_trials

    with tune_trials(concurrent, address) as execute:
        yield execute


def _one_by_one(trials: list[Trial], sweeping: "Sweeping", done: "Callable[[Outcome], None]") -> None:
    from pipeline.launch.launcher import InProcess
    from pipeline.sweeps.trial import run_trial

    for trial in trials:
        done(run_trial(trial, sweeping, InProcess()))


def _racing(sweep: Sweep, execute: Execute) -> Execute:
    """As many trials as `seeds` for every point, but given where the best is in doubt."""
    from pipeline.sweeps.selection import race
    from pipeline.sweeps.summary import headline

    better = METRICS[sweep.metric].better
    if better is None:
        raise UserError(f"--race: no value of {sweep.metric} is better than another: choose another `metric:`")

    def run(trials: list[Trial], sweeping: "Sweeping", done: "Callable[[Outcome], None]") -> None:
        by_point = {(trial.point.label, trial.seed): trial for trial in trials}
        points = list(dict.fromkeys(trial.point.label for trial in trials))

        def measure(asked: "Asked") -> list[float | None]:
            keys: dict[str, str | None] = {}

            def told(outcome: "Outcome") -> None:
                keys[outcome.trial] = outcome.key
                done(outcome)

            chosen = [by_point[point] for point in asked]
            execute(chosen, sweeping, told)
            found = [(trial, keys[trial.id]) for trial in chosen]
            return [
                None if key is None else headline(sweep, trial, sweeping.measured(trial, key)) for trial, key in found
            ]

        race(points, measure, sweep.seeds * len(points), len(trials) // len(points), better)

    return run
