"""The results of a sweep: a table with the paper's values beside the measured ones, and a verdict."""

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from pipeline.errors import UserError
from pipeline.metrics.card import METRICS, Direction
from pipeline.metrics.intervals import by_seed_text, exactly, interval, paired, scope
from pipeline.sweeps.entry import Point, Sweep, is_stacked, trained_entry, written
from pipeline.sweeps.selection import best_of, best_of_shared
from pipeline.sweeps.trials import Trial

Content: TypeAlias = dict[str, Any]  # of a metrics.json

COUNTED = "counted"  # in place of a card, for exact values


class SweepVerdict(NamedTuple):
    winner: str | None  # None where it is not resolved
    text: str


class PointMetric(NamedTuple):
    """One metric at one point."""

    row: dict[str, Any]  # of metrics.json
    values: list[float]  # one per training seed, or per set of pictures where there is one training
    train_seeds: int  # independent trainings of the run: 1 where only its guides are trained again
    sample_seeds: int
    nfe: float
    by_seed: dict[int, float]  # of independent trainings


def table(sweep: Sweep, trials: list[Trial], contents: Mapping[str, Content]) -> pd.DataFrame:
    """A row per point and metric; the paper's number beside the metric that points are compared by."""
    rows = []
    for point, metrics in _points(trials, contents):
        for measured in metrics:
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
                    "by_seed": by_seed_text(measured.by_seed),
                }
            )
    return pd.DataFrame(rows)


def verdict(sweep: Sweep, trials: list[Trial], contents: Mapping[str, Content]) -> SweepVerdict:
    """The best point by the sweep's metric, named only if it is resolved from every other."""
    better = METRICS[sweep.metric].better
    points = [(point, _compared(metrics, sweep)) for point, metrics in _points(trials, contents)]
    if better is None or len(points) < 2:
        return SweepVerdict(None, f"no winner by {sweep.metric} among {len(points)} points")
    values = {point.label: measured.values for point, measured in points}
    best, rivals = (best_of if trials[0].trains else best_of_shared)(values, better)
    trainings = next(measured.train_seeds for point, measured in points if point.label == best)
    guides = (
        f", {len(values[best])} trainings of its guide" if trials[0].trains and trainings < len(values[best]) else ""
    )
    about = f"{sweep.metric} {fmean(values[best]):.4g}, {scope(trainings)}{guides}"
    printed = _against_paper_best(sweep, points, better)
    if rivals:
        return SweepVerdict(None, f"not resolvable: {best} ({about}) is not resolved from {', '.join(rivals)}{printed}")
    return SweepVerdict(best, f"best: {best} ({about}){printed}")


def _against_paper_best(sweep: Sweep, points: list[tuple[Point, PointMetric]], better: Direction) -> str:
    """The paper's other points, measured here, against its best one; of a U shape both ends should be worse."""
    printed = {point.label: value for point, _ in points if (value := sweep.paper_value(point)) is not None}
    if len(printed) < 2:
        return ""
    values = {point.label: measured.values for point, measured in points}
    best = min(printed, key=printed.__getitem__)  # printed values are FID
    others: dict[str, list[str]] = {"worse": [], "better": [], "not resolvable": []}
    for label in printed.keys() - {best}:
        shared = min(len(values[label]), len(values[best]))
        others[paired(values[label][:shared], values[best][:shared], better).verdict].append(label)
    listed = "; ".join(f"{kind}: {', '.join(sorted(labels))}" for kind, labels in others.items() if labels)
    return f". Against {best}, the paper's best: {listed}"


def headline(sweep: Sweep, trial: Trial, content: Content) -> float:
    """The value by which a trial is compared."""
    return fmean(_compared(_measured([trial], [content]), sweep).values)


def _compared(metrics: Iterable[PointMetric], sweep: Sweep) -> PointMetric:
    """The sweep's metric, in the first kind of features."""
    for measured in metrics:
        if measured.row["metric"] == sweep.metric:
            return measured
    raise UserError(f"sweep metric {sweep.metric}: not among what was measured; change `metric:` of the sweep")


def _points(trials: list[Trial], contents: Mapping[str, Content]) -> Iterator[tuple[Point, list[PointMetric]]]:
    """The metrics of every point's finished trials, in the order of the sweep."""
    by_label: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.id in contents:
            by_label.setdefault(trial.point.label, []).append(trial)
    for same in by_label.values():
        yield same[0].point, list(_measured(same, [contents[trial.id] for trial in same]))


def _measured(trials: list[Trial], contents: list[Content]) -> Iterator[PointMetric]:
    """The metrics of trials of one point, which differ in their seeds."""
    sets, nfe = len(contents[0]["sets"]), contents[0]["counts"]["nfe"]
    trainings = _trainings(trials)
    are_independent = trials[0].trains and trainings == len(trials)
    for number, row in enumerate(contents[0]["metrics"]):
        by_trial = [content["metrics"][number]["values"] for content in contents]
        values = [float(np.mean(values)) for values in by_trial] if trials[0].trains else by_trial[0]
        by_seed = dict(zip((trial.seed for trial in trials), values)) if are_independent else {}
        yield PointMetric(row, values, trainings, sets, nfe, by_seed)
    for name, value in contents[0]["counts"].items():
        counted = {"metric": name, "real_vs_real": None, "card": {"id": COUNTED, "text": COUNTED}}
        yield PointMetric(counted, [value], trainings, sets, nfe, {})


def _trainings(trials: list[Trial]) -> int:
    """How many independent trainings of the run these trials have: the number of its seeds."""
    if is_stacked(trials[0].study, trials[0].point.of):
        return len({trial.seed for trial in trials})
    return len({trained_entry(trial.study, trial.point.of).train.get("seed", 0) for trial in trials})
