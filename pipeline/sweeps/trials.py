"""The trials of a sweep, which of their stages are stored, and which are left to run."""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.study import Study
from pipeline.dag.code_version import Code, code_version
from pipeline.dag.graph import STAGES, Call
from pipeline.dag.resolve import identities, past_costs, planned_calls
from pipeline.dag.run import own_study
from pipeline.data.artifacts import canonical
from pipeline.errors import ConfigError, naming
from pipeline.launch.signals import on_sigterm
from pipeline.store.open import open_store
from pipeline.sweeps.entry import Point, Sweep, find_sweep, is_stacked
from pipeline.sweeps.overrides import MODEL, changed, check, evaluated, stacked, with_seed

RACE_SEEDS = 3  # times `seeds`: the most that a race gives to one point
TRAINED = tuple(name for name, stage in STAGES.items() if stage.trains)


@dataclass(frozen=True)
class Trial:
    """One point with one training seed: a study of its own, up to the stage `evaluate`."""

    point: Point
    seed: int
    study: Study
    trains: bool

    @property
    def id(self) -> str:
        return f"{self.point.label} s{self.seed}"


class PlannedSweep(NamedTuple):
    """A sweep of a study before it runs, its settings checked."""

    study: Study
    name: str
    sweep: Sweep
    trials: list[Trial]
    races: bool


def plan_sweep(name: str, of: str | None, values: str | None, seeds: int | None, races: bool) -> PlannedSweep:
    """A sweep of the study in this folder."""
    on_sigterm()
    study = own_study(Path.cwd())
    sweep = find_sweep(study, name, of, values, seeds)
    return PlannedSweep(study, name, sweep, trials_of(study, sweep, f"sweeps.{name}", races), races)


def trials_of(study: Study, sweep: Sweep, where: str, races: bool = False) -> list[Trial]:
    """Points in the order of the table, and the seeds of each; their settings checked.

    races: with the additional seeds that a race may give to a point.
    """
    trials = []
    for of in sweep.entries:
        points = [point for point in sweep.points() if point.of == of]
        trials += (_stacked if is_stacked(study, of) else _separate)(study, points, sweep, where, races)
    return trials


def _stacked(study: Study, points: list[Point], sweep: Sweep, where: str, races: bool) -> list[Trial]:
    """One study for all points that differ in `model.*` alone: the first trial that runs trains every point."""
    if races:
        raise ConfigError(f"{where}: --race is for trials that train apart; a stack trains all at once: leave it out")
    together: dict[str, Study] = {}
    with naming(where):
        for _, group in groupby(sorted(points, key=_around_stack), _around_stack):
            same, own = list(group), study
            for field, value in same[0].changes.items():
                own = own if field.startswith(MODEL) else changed(own, same[0].of, field, value)
            together |= dict.fromkeys((point.label for point in same), stacked(own, same[0].of, same, sweep.seeds))
    return [Trial(point, seed, together[point.label], True) for point in points for seed in range(sweep.seeds)]


def _around_stack(point: Point) -> str:
    """The fields in which the members of one stack are equal."""
    return canonical({field: value for field, value in point.changes.items() if not field.startswith(MODEL)})


def _separate(study: Study, points: list[Point], sweep: Sweep, where: str, races: bool) -> list[Trial]:
    studies = []
    for point in points:
        with naming(f"{where}: {point.label}"):
            studies.append(_study_of(study, point))
    trained = _varied_trainings(studies, points[0].of)
    if not trained:
        if races:
            raise ConfigError(f"{where}: --race is for training seeds; here only sampling differs: leave it out")
        sets = "dataset.evaluate.sample_seeds"
        return [Trial(p, 0, changed(own, p.of, sets, sweep.seeds), False) for p, own in zip(points, studies)]
    seeds = range(RACE_SEEDS * sweep.seeds if races else sweep.seeds)
    return [Trial(p, seed, with_seed(own, seed, trained), True) for p, own in zip(points, studies) for seed in seeds]


def _study_of(study: Study, point: Point) -> Study:
    for field, value in point.changes.items():
        study = changed(study, point.of, field, value)
    check(evaluated(study, point.of))
    return study


def _varied_trainings(studies: list[Study], of: str) -> set[tuple[str, str]]:
    """The trainings, as (stage, entry), that differ between the points of an entry: only their seeds are varied."""
    identities_of: dict[tuple[str, str], set[str]] = {}
    for study in studies:
        calls = evaluated(study, of)
        names = identities(study, calls)
        for call in calls:
            if call.stage in TRAINED:
                identities_of.setdefault((call.stage, call.name), set()).add(names[call.out])
    return {training for training, different in identities_of.items() if len(different) > 1}


def list_calls(study: Study, trials: list[Trial]) -> dict[str, Any]:
    """The trials ("points"), and their calls: those that have to "run", with seconds, and those to be "reused"."""
    store = open_store(study)
    planned, costs = planned_calls(_chains(trials), store).values(), past_costs(store)
    first = {id(trial.study): trial.id for trial in reversed(trials)}  # that needs a call
    calls: dict[str, list[dict[str, Any]]] = {"run": [], "reused": []}
    for owner, call, _, key, manifest in planned:
        listed = {"stage": call.stage, "name": call.name, "key": key}
        if manifest is None:
            cost = costs.get((call.stage, call.name), costs.get((call.stage,)))
            seconds = None if cost is None else cost.seconds
            calls["run"].append(listed | {"seconds": seconds, "trial": first[id(owner)]})
        else:
            calls["reused"].append(listed)
    points = [{"id": trial.id, "of": trial.point.of, "seed": trial.seed, **trial.point.values} for trial in trials]
    return {"points": points, **calls}


def description(trials: list[Trial]) -> dict[str, Any]:
    """Settings and code of every stage, by trial: its digest distinguishes sweeps of one name in the tracker."""
    return {
        trial.id: {
            f"{call.stage} {call.name}": {"config": call.config, "code": code_version(call.modules, study.root)}
            for call in calls
        }
        for trial, (study, calls) in zip(trials, _chains(trials))
    }


def code_of(trials: list[Trial]) -> Code:
    """Of all stages of these trials, which are of one study."""
    modules = {name for _, calls in _chains(trials) for call in calls for name in call.modules}
    return Code.of(tuple(sorted(modules)), trials[0].study.root)


def chains_of(study: Study, sweep: str) -> list[tuple[Study, list[Call]]]:
    """The calls of a sweep of params.yaml, by trial."""
    return _chains(trials_of(study, find_sweep(study, sweep), f"sweeps.{sweep}"))


def _chains(trials: list[Trial]) -> list[tuple[Study, list[Call]]]:
    return [(trial.study, evaluated(trial.study, trial.point.of)) for trial in trials]
