"""What a sweep needs, what of it is there already, and what is left to run; nothing is computed twice."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.study import Study
from pipeline.dag.code_version import code_version
from pipeline.dag.graph import Call
from pipeline.dag.resolve import Cost, Planned, identities, past_costs, planned_calls
from pipeline.errors import ConfigError, naming
from pipeline.store.store import Store
from pipeline.sweeps.entry import Point, Sweep, find_sweep, is_stacked
from pipeline.sweeps.overrides import TRAINED, changed, check, evaluated, stacked, with_seed, with_sets

MOST_SEEDS = 3  # times `seeds`, for a point that a race cannot tell from others


@dataclass(frozen=True)
class Trial:
    """One point with one training seed: a study of its own, down to what `evaluate` makes."""

    point: Point
    seed: int
    study: Study
    trains: bool

    @property
    def id(self) -> str:
        return f"{self.point.label} s{self.seed}"


def trials_of(study: Study, sweep: Sweep, where: str, races: bool = False) -> list[Trial]:
    """Points in the order of the table, the seeds of each one after the other; settings checked.

    races: with the seeds that a race may give a point; it spends as many trials as there were without it.
    """
    found = []
    for of in sweep.entries:
        points = [point for point in sweep.points() if point.of == of]
        found += (
            _stacked(study, points, sweep, where, races)
            if is_stacked(study, of)
            else _apart(study, points, sweep, where, races)
        )
    return found


def _stacked(study: Study, points: list[Point], sweep: Sweep, where: str, races: bool) -> list[Trial]:
    """One study for all: whichever trial comes first trains every point."""
    if races:
        raise ConfigError(f"{where}: --race is for trials that train apart; a stack trains all at once: leave it out")
    with naming(where):
        together = stacked(study, points[0].of, points, sweep.seeds)
    return [Trial(point, seed, together, True) for point in points for seed in range(sweep.seeds)]


def _apart(study: Study, points: list[Point], sweep: Sweep, where: str, races: bool) -> list[Trial]:
    studies = []
    for point in points:
        with naming(f"{where}: {point.label}"):
            studies.append(_study_of(study, point))
    found, trained = [], _what_varies(studies, points[0].of)
    for point, own in zip(points, studies):
        if races and not trained:
            raise ConfigError(f"{where}: --race is for training seeds; here only sampling differs: leave it out")
        if trained:
            seeds = MOST_SEEDS * sweep.seeds if races else sweep.seeds
            found += [Trial(point, n, with_seed(own, n, trained), True) for n in range(seeds)]
        else:
            found.append(Trial(point, 0, with_sets(own, point.of, sweep.seeds), False))
    return found


def _study_of(study: Study, point: Point) -> Study:
    for field, value in point.changes.items():
        study = changed(study, point.of, field, value)
    check(evaluated(study, point.of))
    return study


def _what_varies(studies: list[Study], of: str) -> set[tuple[str, str]]:
    """The trainings that are not the same at every point of an entry: only their seeds are worth varying."""
    ids: dict[tuple[str, str], set[str]] = {}
    for study in studies:
        calls = evaluated(study, of)
        names = identities(study, calls)
        for call in calls:
            if call.stage in TRAINED:
                ids.setdefault((call.stage, call.name), set()).add(names[call.out])
    return {trained for trained, found in ids.items() if len(found) > 1}


def plan(trials: list[Trial], store: Store) -> dict[str, Planned]:
    """Every call of these trials."""
    return planned_calls([(trial.study, evaluated(trial.study, trial.point.of)) for trial in trials], store)


def as_json(trials: list[Trial], planned: Iterable[Planned], store: Store) -> dict[str, Any]:
    """What `--dry-run --json` prints."""
    costs, first = past_costs(store), {id(trial.study): trial.id for trial in reversed(trials)}
    return {
        "points": [
            {"id": trial.id, "of": trial.point.of, "seed": trial.seed, **trial.point.values} for trial in trials
        ],
        "run": [
            {"stage": p.call.stage, "name": p.call.name, "key": p.key, "seconds": _seconds(costs, p.call)}
            | {"trial": first[id(p.study)]}  # the first that needs it
            for p in planned
            if p.manifest is None
        ],
        "reused": [
            {"stage": p.call.stage, "name": p.call.name, "key": p.key} for p in planned if p.manifest is not None
        ],
    }


def description(trials: list[Trial]) -> dict[str, Any]:
    """Settings and code of every stage, by trial: its digest tells one plan from another in the tracker."""
    return {trial.id: dict(_described(trial)) for trial in trials}


def _described(trial: Trial) -> Iterator[tuple[str, Any]]:
    for call in evaluated(trial.study, trial.point.of):
        code = code_version(call.modules, trial.study.root)
        yield f"{call.stage} {call.name}", {"config": call.config, "code": code}


def _seconds(costs: Mapping[tuple[str, ...], Cost], call: Call) -> float | None:
    cost = costs.get((call.stage, call.name), costs.get((call.stage,)))
    return None if cost is None else cost.seconds


def chains_of(study: Study, sweep: str) -> list[tuple[Study, list[Call]]]:
    """The calls of a sweep of params.yaml, by trial."""
    trials = trials_of(study, find_sweep(study, sweep, None, None, None), f"sweeps.{sweep}")
    return [(trial.study, evaluated(trial.study, trial.point.of)) for trial in trials]
