"""`trilemma compare`: evaluated entries against the first one, by shared seeds, and MLflow's page of the same runs."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, NamedTuple

from pipeline.config.build import pick
from pipeline.config.study import Study
from pipeline.console import say, table_console
from pipeline.dag.graph import STAGES
from pipeline.data.artifacts import MANIFEST, read_artifact
from pipeline.errors import ArtifactError, UserError
from pipeline.metrics.card import Card, same_measure
from pipeline.store.open import open_store
from pipeline.tables.aggregate import Arm, differences, gather, repetitions, summarise
from pipeline.tables.markdown import bounds
from pipeline.tracking.backend import TrackingError
from pipeline.tracking.ui import compare_page

DIGITS = 4  # significant, for people; JSON has all


class Row(NamedTuple):
    """One metric of one entry, and what tells it from the first entry; None where there is nothing to tell."""

    metric: str
    card: str
    run: str
    value: float
    ci_low: float
    ci_high: float
    real_vs_real: float | None
    difference: float | None = None  # this entry's less the first one's, over the seeds they share
    difference_low: float | None = None
    difference_high: float | None = None
    verdict: str | None = None  # of this entry
    scope: str | None = None
    train_seeds: int = 1
    sample_seeds: int = 1


@dataclass(frozen=True)
class Compared:
    runs: tuple[str, ...]  # the first is what the others are compared with
    rows: tuple[Row, ...]
    counts: dict[str, dict[str, float]]  # by entry: network and guide calls per sample
    mlflow: str | None  # address of the page that shows the evaluations side by side
    notes: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        rows = [{name: _or_null(value) for name, value in row._asdict().items()} for row in self.rows]
        return {
            "runs": list(self.runs),
            "rows": rows,
            "counts": self.counts,
            "mlflow": self.mlflow,
            "notes": list(self.notes),
        }


def compare(study: Study, names: Sequence[str], apart_from: Collection[str] = ()) -> Compared:
    """Entries with all their evaluated training seeds. apart_from: fields of a card that may differ."""
    if len(names) < 2 or len({*names}) < len(names):
        raise UserError(f"{' '.join(names) or 'nothing'} came, at least two different runs were wanted")
    for name in names:
        pick({**study.runs, **study.guided}, name, "run or guided entry")
    _refuse_repetitions(study, names)
    notes: list[str] = []
    arms = [_arm(study, name, notes) for name in names]
    others = [_aligned(arms[0], arm, name, names[0], apart_from, notes) for name, arm in zip(names[1:], arms[1:])]
    notes += [f"{arm.name} is {warning}" for arm in arms for warning in sorted(arm.warnings)]
    rows = tuple(_rows(names, [arms[0], *others]))
    counts = {name: arm.repetitions[0].counts for name, arm in zip(names, arms)}
    return Compared(tuple(names), rows, counts, _page(study, arms, notes), tuple(notes))


def print_comparison(found: Compared, as_json: bool) -> None:
    """Notes go to stderr."""
    for note in found.notes:
        say(f"note: {note}")
    if as_json:
        print(json.dumps(found.json(), indent=1))
        return
    from rich.table import Table

    table = Table("metric", "run", "value", "real_vs_real", f"less {found.runs[0]}", "verdict", "seeds", box=None)
    for row in found.rows:
        first = row.run == found.runs[0]
        value = f"{row.value:.{DIGITS}g}" + bounds(row.ci_low, row.ci_high, DIGITS)
        real_vs_real = "" if row.real_vs_real is None or not first else f"{row.real_vs_real:.{DIGITS}g}"
        difference = "" if row.difference is None else f"{row.difference:+.{DIGITS}g}"
        difference += bounds(row.difference_low, row.difference_high, DIGITS)
        metric = f"{row.metric} ({row.card.partition('@')[0]})" if first else ""
        seeds = f"{row.train_seeds} trained x {row.sample_seeds} sampled"
        table.add_row(metric, row.run, value, real_vs_real, difference, row.verdict or "", seeds)
    for name in next(iter(found.counts.values())):
        for run, counts in found.counts.items():
            table.add_row(
                name if run == found.runs[0] else "", run, f"{counts[name]:.{DIGITS}g}", "", "", "counted", ""
            )
    console = table_console()
    console.print(table)
    scopes = ", ".join(dict.fromkeys(row.scope for row in found.rows if row.scope))
    console.print(
        f"\n[..]: 95 % intervals; verdicts: of each run against {found.runs[0]}, {scopes}",
        markup=False,
        highlight=False,
    )
    if found.mlflow:
        print(f"MLflow (trilemma ui): {found.mlflow}")


def _refuse_repetitions(study: Study, names: Sequence[str]) -> None:
    methods: dict[tuple[str, ...], str] = {}
    for name in names:
        other = methods.setdefault(tuple(repetitions(study, name)), name)
        if other != name:
            raise UserError(f"{other} and {name} differ in the training seed alone: one method, name another beside it")


def _arm(study: Study, name: str, notes: list[str]) -> Arm:
    """The entry and those that differ from it in the training seed alone, as far as they are evaluated."""
    if not _is_evaluated(study, name):
        raise UserError(f"{name} is not evaluated yet: run it first (dvc repro evaluate@{name})")
    alike = repetitions(study, name)
    missing = [other for other in alike if not _is_evaluated(study, other)]
    if missing:
        notes.append(f"{name} without its training seeds {', '.join(missing)}: not evaluated yet")
    arms = gather(study, [other for other in alike if other not in missing])
    (own,) = [arm for arm in arms if name in [found.entry for found in arm.repetitions]]
    apart = [found.entry for arm in arms if arm is not own for found in arm.repetitions]
    if apart:
        notes.append(f"{name} without {', '.join(apart)}: not of one version of the code")
    return own


def _is_evaluated(study: Study, name: str) -> bool:
    return (study.out / "evaluate" / name / MANIFEST).is_file()


def _aligned(first: Arm, other: Arm, name: str, first_name: str, apart_from: Collection[str], notes: list[str]) -> Arm:
    """`other` with its metrics under the card ids of `first`, those that both have."""
    ours, theirs = (_ids(arm) for arm in (first, other))
    for metric, extractor in sorted(ours.keys() ^ theirs.keys()):
        only = first_name if (metric, extractor) in ours else name
        notes.append(f"{metric} ({extractor}) of {only} is left out: {first_name} and {name} do not both have it")
    shared = [kind for kind in ours if kind in theirs]
    if not shared:
        raise UserError(f"{first_name} and {name} have no metric in common: compare runs on one dataset")
    for kind in shared:
        cards = [_card(first, ours[kind]), _card(other, theirs[kind])]
        try:
            same_measure(cards, apart_from)
        except ValueError as error:
            raise UserError(
                f"{first_name} and {name}: {error}; --apart-from FIELD compares them all the same"
            ) from None
    return other._replace(
        repetitions=tuple(
            found._replace(metrics={ours[kind]: found.metrics[theirs[kind]] for kind in shared})
            for found in other.repetitions
        )
    )


def _ids(arm: Arm) -> dict[tuple[str, str], str]:
    """Card ids by metric and extractor."""
    return {(found["metric"], found["card"]["extractor"]): id for id, found in arm.repetitions[0].metrics.items()}


def _card(arm: Arm, id: str) -> Card:
    told = arm.repetitions[0].metrics[id]["card"]
    return Card.from_json({name: value for name, value in told.items() if name not in ("id", "text")})


def _rows(names: Sequence[str], arms: Sequence[Arm]) -> Iterator[Row]:
    """Metric by metric, the first entry first."""
    found = {
        (name, id): difference
        for name, arm in zip(names[1:], arms[1:])
        for id, difference in zip(arm.repetitions[0].metrics, differences(arm, arms[0]))
    }
    for id in arms[0].repetitions[0].metrics:
        for name, arm in zip(names, arms):
            if id not in arm.repetitions[0].metrics:
                continue
            metric = arm.repetitions[0].metrics[id]
            (value, low, high, _), _, train_seeds, sample_seeds = summarise(arm, id)
            row = Row(metric["metric"], metric["card"]["text"], name, value, low, high, metric["real_vs_real"])
            row = row._replace(train_seeds=train_seeds, sample_seeds=sample_seeds)
            if difference := found.get((name, id)):
                told, low, high, verdict, _ = difference.comparison
                row = row._replace(difference=told, difference_low=low, difference_high=high, verdict=verdict)
                row = row._replace(
                    scope=difference.scope, train_seeds=difference.train_seeds, sample_seeds=difference.sample_seeds
                )
            yield row


def _page(study: Study, arms: Sequence[Arm], notes: list[str]) -> str | None:
    """None, with a note, if a run is not in MLflow."""
    entries = [found.entry for arm in arms for found in arm.repetitions]
    runs = [(entry, _tracked(study, entry)) for entry in entries]
    absent = [entry for entry, run in runs if run is None]
    if absent:
        notes.append(f"no MLflow page: the ledger has no run of {', '.join(absent)} with the present code")
        return None
    try:
        return compare_page(study.root, [run for _, run in runs if run is not None])
    except TrackingError as error:
        notes.append(f"no MLflow page: {error}")
        return None


def _tracked(study: Study, entry: str) -> str | None:
    """MLflow's id of the run that evaluated it, from the ledger."""
    call = STAGES["evaluate"].call(study, entry)
    try:
        inputs = {role: read_artifact(path).digest for role, path in call.inputs.items()}
    except ArtifactError:
        return None
    notes = open_store(study).notes(call.key(study.root, inputs))
    return next((note["mlflow_run"] for note in reversed(notes) if note["event"] == "computed"), None)


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and isnan(value) else value
