"""Groups against a baseline: differences, corrected p-values, verdicts, and what more seeds would resolve."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite, isnan
from typing import Any, NamedTuple

import numpy as np

from pipeline.config.build import nearest, shown
from pipeline.errors import UserError
from pipeline.metrics.card import Direction
from pipeline.metrics.intervals import ALPHA, Interval, Verdict, holm, interval
from pipeline.tables.markdown import bounds, markdown_table
from pipeline.tables.outside.difference import Difference, bootstrap, paired_t, welch
from pipeline.tables.outside.groups import Groups, Metric, Test, named

EXIT_CODES = {"better": 0, "not resolvable": 3, "worse": 4}
CORRECTION = "Holm, over all groups and metrics"


class Row(NamedTuple):
    """One metric of one group; from `test` on, None for the baseline."""

    metric: str
    better: Direction
    group: str
    seeds: int
    value: float
    ci_low: float
    ci_high: float
    test: str | None = None
    compared: str | None = None  # pairs of seeds, or seeds of this group and of the baseline
    difference: float | None = None  # this group minus the baseline
    difference_low: float | None = None  # of the 95 % interval of this comparison alone
    difference_high: float | None = None
    p: float | None = None
    p_corrected: float | None = None
    verdict: Verdict | None = None  # by p_corrected
    detectable: float | None = None  # true difference that would be resolved with probability 0.8, after correction
    needed: int | None = None  # seeds that resolve a true difference as large as the measured one, as often


class Answer(NamedTuple):
    source: str
    baseline: str
    unit: str  # of `needed`
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """better: at least one group in one metric; worse: none, and at least one is worse."""
        verdicts = {row.verdict for row in self.rows}
        return next((verdict for verdict in ("better", "worse") if verdict in verdicts), "not resolvable")

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    def json(self) -> dict[str, Any]:
        rows = [{name: _or_null(cell) for name, cell in row._asdict().items()} for row in self.rows]
        about = {"verdict": self.verdict, "exit_code": self.exit_code, "correction": CORRECTION}
        return self._asdict() | about | {"rows": rows}

    def markdown(self) -> str:
        """A table with a row for each metric and group."""
        header = ("metric", "group", "seeds", "value", f"less {self.baseline}", "p", "verdict", "detectable", "needed")
        return markdown_table(header, [[*_cells(row)] for row in self.rows])


def compare_groups(source: str, groups: Groups, baseline: str | None, test: Test) -> Answer:
    """Every group against the baseline, in every metric. baseline: None for the first group."""
    first = next(iter(groups.values)) if baseline is None else check_baseline(baseline, [*groups.values])
    comparisons = (len(groups.values) - 1) * len(groups.metrics)
    notes, left_out = list(groups.notes), []
    pairings: dict[str, list[str]] = {}  # shared seeds; empty: not paired
    for name, seeds in groups.values.items():
        shared = [seed for seed in groups.values[first] if seed in seeds]
        if test == "paired" and len(shared) < 2:
            raise UserError(f"{first} and {name} share {len(shared)} seeds, a paired test needs 2: leave --test out")
        pairings[name] = [] if test == "welch" or len(shared) < 2 else shared
        if pairings[name] and len(shared) < max(len(seeds), len(groups.values[first])):
            left_out.append(name)
    if left_out:
        notes.append(f"seeds that only one of {first} and {named(left_out)} has are left out (--test welch takes all)")

    def differ(at: int, name: str) -> Difference:
        sides = groups.values[name], groups.values[first]
        shared = pairings[name]
        a, b = (np.array([side[seed][at] for seed in shared or side]) for side in sides)
        if test == "bootstrap":
            return bootstrap(a, b, bool(shared), ALPHA / comparisons, comparisons)
        return (paired_t if shared else welch)(a, b, ALPHA / comparisons)

    values = {
        (metric.name, name): interval([numbers[at] for numbers in seeds.values()])
        for at, metric in enumerate(groups.metrics)
        for name, seeds in groups.values.items()
    }
    names = [first, *(name for name in groups.values if name != first)]
    return answer(source, groups.metrics, names, values, differ, "seeds", notes)


def check_baseline(name: str, groups: Sequence[str]) -> str:
    if name not in groups:
        raise UserError(f"--baseline {shown(name)}: no such group{nearest(name, [*groups])}; there are {named(groups)}")
    return name


def answer(
    source: str,
    metrics: Sequence[Metric],
    names: Sequence[str],
    values: Mapping[tuple[str, str], Interval],
    differ: Callable[[int, str], Difference],
    unit: str,
    notes: Sequence[str],
) -> Answer:
    """names: of groups, the baseline first. differ: (index of a metric, name of a group) -> less the baseline."""
    first, *others = names
    differences = {(metric.name, name): differ(at, name) for at, metric in enumerate(metrics) for name in others}
    corrected = dict(zip(differences, holm([one.p for one in differences.values()])))
    rows = []
    for metric in metrics:
        for name in names:
            own, place = values[metric.name, name], (metric.name, name)
            row = Row(*metric, name, own.n, *own[:3])
            rows.append(row if name == first else _compared(row, differences[place], corrected[place]))
    constant = [metric.name for metric in metrics if any(isnan(differences[metric.name, name].low) for name in others)]
    if constant:
        notes = [*notes, f"{named(constant)}: some values do not vary, so p is that of a coincidence; a count is exact"]
    return Answer(source, first, unit, tuple(rows), tuple(notes))


def _compared(row: Row, one: Difference, corrected: float) -> Row:
    verdict: Verdict = "not resolvable"
    if corrected < ALPHA:
        verdict = "better" if (one.value > 0) == (row.better == "higher") else "worse"
    return row._replace(
        test=one.test,
        compared=one.n,
        difference=one.value,
        difference_low=one.low,
        difference_high=one.high,
        p=one.p,
        p_corrected=corrected,
        verdict=verdict,
        detectable=one.detectable,
        needed=one.needed if verdict == "not resolvable" else None,
    )


def _cells(row: Row) -> Iterator[str]:
    yield from (row.metric, row.group, str(row.seeds), f"{row.value:.4g}{bounds(row.ci_low, row.ci_high, 4)}")
    if row.difference is None:
        yield from ("", "", "baseline", "", "")
        return
    yield f"{row.difference:.4g}{bounds(row.difference_low, row.difference_high, 4)}"
    yield f"{row.p_corrected:.2g}"
    yield row.verdict or ""
    yield "" if row.detectable is None or isnan(row.detectable) else f"{row.detectable:.2g}"
    yield "" if row.needed is None else str(row.needed)


def _or_null(cell: Any) -> Any:
    return None if isinstance(cell, float) and not isfinite(cell) else cell
