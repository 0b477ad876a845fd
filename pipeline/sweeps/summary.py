"""What a sweep found: a table with the paper's values beside ours, a figure, and a verdict."""

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from pipeline.data.csv_files import csv_text
from pipeline.errors import UserError
from pipeline.metrics.card import METRICS, Direction
from pipeline.metrics.intervals import exactly, interval, paired, scope
from pipeline.sweeps.entry import Point, Sweep, written
from pipeline.sweeps.selection import best_of, best_of_shared
from pipeline.sweeps.trials import Trial

Content: TypeAlias = dict[str, Any]  # of a metrics.json


COUNTED = "counted"  # in place of a card: exact


class Verdict(NamedTuple):
    winner: str | None  # None where it is not resolved
    text: str


class Measured(NamedTuple):
    """One metric at one point."""

    row: dict[str, Any]  # of metrics.json
    values: list[float]  # one per training seed, or per set of pictures where there is one training
    train_seeds: int
    sample_seeds: int
    nfe: float


def table(sweep: Sweep, trials: list[Trial], contents: Mapping[str, Content]) -> pd.DataFrame:
    """A row per point and metric; the paper's number beside the metric that points are compared by."""
    rows = []
    for point, found in _points(trials, contents):
        for measured in found:
            metric, card = measured.row["metric"], measured.row["card"]
            is_counted = card["id"] == COUNTED
            mean, low, high, _ = exactly(*measured.values) if is_counted else interval(measured.values)
            compared = metric == sweep.metric
            rows.append(
                {"entry": point.of}
                | {name: written(value) for name, value in point.values.items()}
                | {
                    "metric": metric,
                    "value": mean,
                    "ci_low": low,
                    "ci_high": high,
                    "train_seeds": measured.train_seeds,
                    "sample_seeds": measured.sample_seeds,
                    "n_generated": card.get("n_generated"),
                    "n_real": card.get("n_real"),
                    "real_vs_real": measured.row["real_vs_real"],
                    "nfe": measured.nfe,
                    "paper_metric": f"{sweep.paper.metric} ({sweep.paper.source})" if sweep.paper and compared else "",
                    "paper_value": sweep.paper_value(point) if compared else None,
                    "card": card["text"],
                }
            )
    return pd.DataFrame(rows)


def verdict(sweep: Sweep, trials: list[Trial], contents: Mapping[str, Content]) -> Verdict:
    """The best point by the sweep's metric, named only if it is resolved from every other."""
    better = METRICS[sweep.metric].better
    points = [(point, _compared(measured, sweep)) for point, measured in _points(trials, contents)]
    if better is None or len(points) < 2:
        return Verdict(None, f"no winner by {sweep.metric} among {len(points)} points")
    found = {point.label: measured for point, measured in points}
    values = {label: measured.values for label, measured in found.items()}
    best, rivals = (best_of if trials[0].trains else best_of_shared)(values, better)
    about = f"{sweep.metric} {fmean(values[best]):.4g}, {scope(found[best].train_seeds)}"
    printed = _beside_the_printed_best(sweep, points, better)
    if rivals:
        return Verdict(None, f"not resolvable: {best} ({about}) is not told from {', '.join(rivals)}{printed}")
    return Verdict(best, f"best: {best} ({about}){printed}")


def _beside_the_printed_best(sweep: Sweep, points: list[tuple[Point, Measured]], better: Direction) -> str:
    """How every other printed point is here against the paper's best; a U shape has its ends among the worse."""
    printed = {point.label: value for point, _ in points if (value := sweep.paper_value(point)) is not None}
    if len(printed) < 2:
        return ""
    values = {point.label: measured.values for point, measured in points}
    best = min(printed, key=printed.__getitem__)  # printed values are FID
    others: dict[str, list[str]] = {"worse": [], "better": [], "not resolvable": []}
    for label in printed.keys() - {best}:
        shared = min(len(values[label]), len(values[best]))
        others[paired(values[label][:shared], values[best][:shared], better).verdict].append(label)
    said = "; ".join(f"{kind}: {', '.join(sorted(labels))}" for kind, labels in others.items() if labels)
    return f". Against {best}, the paper's best: {said}"


def headline(sweep: Sweep, trial: Trial, content: Content) -> float:
    """What a trial is compared by."""
    return fmean(_compared(_measured([content], trial.trains), sweep).values)


def _compared(found: Iterable[Measured], sweep: Sweep) -> Measured:
    """In the first kind of features it was measured in."""
    for measured in found:
        if measured.row["metric"] == sweep.metric:
            return measured
    raise UserError(f"sweep metric {sweep.metric}: not among what was measured; change `metric:` of the sweep")


def as_csv(rows: pd.DataFrame) -> bytes:
    return csv_text(rows).encode()


def _points(trials: list[Trial], contents: Mapping[str, Content]) -> Iterator[tuple[Point, list[Measured]]]:
    """What every point's finished trials measured, in the order of the sweep."""
    by_label: dict[str, list[tuple[Trial, dict[str, Any]]]] = {}
    for trial in trials:
        if trial.id in contents:
            by_label.setdefault(trial.point.label, []).append((trial, contents[trial.id]))
    for found in by_label.values():
        trial, _ = found[0]
        yield trial.point, list(_measured([content for _, content in found], trial.trains))


def _measured(contents: list[dict[str, Any]], trains: bool) -> Iterator[Measured]:
    sets, nfe = len(contents[0]["sets"]), contents[0]["counts"]["nfe"]
    for number, row in enumerate(contents[0]["metrics"]):
        by_seed = [content["metrics"][number]["values"] for content in contents]
        values = [float(np.mean(values)) for values in by_seed] if trains else by_seed[0]
        yield Measured(row, values, len(contents), sets, nfe)
    for name, value in contents[0]["counts"].items():
        counted = {"metric": name, "real_vs_real": None, "card": {"id": COUNTED, "text": COUNTED}}
        yield Measured(counted, [value], len(contents), sets, nfe)
