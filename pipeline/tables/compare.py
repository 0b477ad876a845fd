"""`trilemma compare`: evaluated entries against the first one, by shared seeds, and MLflow's page of the same runs."""

from collections.abc import Collection, Iterator, Sequence
from math import isnan
from typing import Any, NamedTuple

from pipeline.config.build import pick
from pipeline.config.study import Study
from pipeline.dag.graph import STAGES
from pipeline.dag.lineage import PRESENT, chain_links
from pipeline.data.artifacts import MANIFEST
from pipeline.errors import ArtifactError, UserError
from pipeline.metrics.card import Card, same_measure
from pipeline.tables.aggregate import Arm, differences, gather, repetitions, summarise
from pipeline.tracking.backend import TrackingError
from pipeline.tracking.ui import compare_page


class Row(NamedTuple):
    """One metric of one entry; its difference is None for the first entry."""

    metric: str
    card: str
    run: str
    value: float
    ci_low: float
    ci_high: float
    real_vs_real: float | None
    train_seeds: int
    sample_seeds: int
    difference: float | None = None  # this entry minus the first one, over the seeds they share
    difference_low: float | None = None
    difference_high: float | None = None
    verdict: str | None = None  # on this entry
    scope: str | None = None


class Compared(NamedTuple):
    runs: tuple[str, ...]  # the first is the one that the others are compared with
    rows: tuple[Row, ...]
    counts: dict[str, dict[str, float]]  # by entry: network and guide calls per sample
    mlflow: str | None  # address of the page that shows the evaluations side by side
    notes: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        return self._asdict() | {"rows": [{k: _or_null(v) for k, v in row._asdict().items()} for row in self.rows]}


def compare(study: Study, names: Sequence[str], apart_from: Collection[str] = ()) -> Compared:
    """Entries with all their evaluated training seeds. apart_from: fields of a card that may differ."""
    if len(names) < 2 or len({*names}) < len(names):
        raise UserError(f"{' '.join(names) or 'nothing'} came, at least two different runs were wanted")
    for name in names:
        pick({**study.runs, **study.guided}, name, "run or guided entry")
    _refuse_repetitions(study, names)
    notes: list[str] = []
    arms = {name: _arm(study, name, notes) for name in names}
    first, *others = names
    aligned = {name: _aligned(arms, first, name, apart_from, notes) for name in others}
    notes += [f"{arm.name} is {warning}" for arm in arms.values() for warning in sorted(arm.warnings)]
    rows = tuple(_rows({first: arms[first]} | aligned))
    counts = {name: arm.repetitions[0].counts for name, arm in arms.items()}
    return Compared(tuple(names), rows, counts, _page(study, arms.values(), notes), tuple(notes))


def _refuse_repetitions(study: Study, names: Sequence[str]) -> None:
    methods: dict[tuple[str, ...], str] = {}
    for name in names:
        other = methods.setdefault(tuple(repetitions(study, name)), name)
        if other != name:
            raise UserError(f"{other} and {name} differ in the training seed alone: one method, name another beside it")


def _arm(study: Study, name: str, notes: list[str]) -> Arm:
    """The entry and those that differ from it only in the training seed, as far as they are evaluated."""
    alike = repetitions(study, name)
    missing = [other for other in alike if not (study.out / "evaluate" / other / MANIFEST).is_file()]
    if name in missing:
        raise UserError(f"{name} is not evaluated yet: run it first (dvc repro evaluate@{name})")
    if missing:
        notes.append(f"{name} without its training seeds {', '.join(missing)}: not evaluated yet")
    arms = gather(study, [other for other in alike if other not in missing])
    (own,) = [arm for arm in arms if name in [one.entry for one in arm.repetitions]]
    apart = [one.entry for arm in arms if arm is not own for one in arm.repetitions]
    if apart:
        notes.append(f"{name} without {', '.join(apart)}: not of one version of the code")
    return own


def _aligned(arms: dict[str, Arm], first: str, name: str, apart_from: Collection[str], notes: list[str]) -> Arm:
    """The arm with the metrics that the first one has too, under the first one's card ids."""
    first_ids, own_ids = (
        {(m["metric"], m["card"]["extractor"]): id for id, m in arms[entry].repetitions[0].metrics.items()}
        for entry in (first, name)
    )
    for metric, extractor in sorted(first_ids.keys() ^ own_ids.keys()):
        only = first if (metric, extractor) in first_ids else name
        notes.append(f"{metric} ({extractor}) of {only} is left out: {first} and {name} do not both have it")
    ids = [(id, own_ids[kind]) for kind, id in first_ids.items() if kind in own_ids]
    if not ids:
        raise UserError(f"{first} and {name} have no metric in common: compare runs on one dataset")
    for first_id, own_id in ids:
        try:
            same_measure([_card(arms[first], first_id), _card(arms[name], own_id)], apart_from)
        except ValueError as error:
            raise UserError(f"{first} and {name}: {error}; --apart-from FIELD compares them all the same") from None
    aligned = [one._replace(metrics={to: one.metrics[own] for to, own in ids}) for one in arms[name].repetitions]
    return arms[name]._replace(repetitions=tuple(aligned))


def _card(arm: Arm, id: str) -> Card:
    fields = arm.repetitions[0].metrics[id]["card"]
    return Card.from_json({name: value for name, value in fields.items() if name not in ("id", "text")})


def _rows(arms: dict[str, Arm]) -> Iterator[Row]:
    """Metric by metric, the first entry first."""
    first, *others = arms.values()
    compared = {arm.name: dict(zip(arm.repetitions[0].metrics, differences(arm, first))) for arm in others}
    for id in first.repetitions[0].metrics:
        for name, arm in arms.items():
            if id not in arm.repetitions[0].metrics:
                continue
            metric, own = arm.repetitions[0].metrics[id], summarise(arm, id)
            described = metric["metric"], metric["card"]["text"], name, *own[:3], metric["real_vs_real"]
            if arm is first:
                yield Row(*described, own.train_seeds, own.sample_seeds)
                continue
            other = compared[arm.name][id]
            difference = other.difference, other.ci_low, other.ci_high, other.verdict, other.scope
            yield Row(*described, other.train_seeds, other.sample_seeds, *difference)


def _page(study: Study, arms: Collection[Arm], notes: list[str]) -> str | None:
    """None, with a note, if a run is not in MLflow."""
    runs = {one.entry: _tracked(study, one.entry) for arm in arms for one in arm.repetitions}
    absent = [entry for entry, run in runs.items() if run is None]
    if absent:
        notes.append(f"no MLflow page: the ledger has no run of {', '.join(absent)} with the present code")
        return None
    try:
        return compare_page(study.root, [run for run in runs.values() if run is not None])
    except TrackingError as error:
        notes.append(f"no MLflow page: {error}")
        return None


def _tracked(study: Study, entry: str) -> str | None:
    """MLflow's id of the run in which the present code evaluated it, from the ledger."""
    try:
        link = chain_links(study, STAGES["evaluate"].call(study, entry))[-1]
    except ArtifactError:
        return None
    return link.ledger.get("mlflow_run") if link.version == PRESENT else None


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and isnan(value) else value
