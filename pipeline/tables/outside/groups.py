"""Rows of a table as groups: every value of every metric by group and seed, checked."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pipeline.config.build import nearest, shown
from pipeline.errors import UserError
from pipeline.metrics.card import METRICS, Direction

Test = Literal["auto", "paired", "welch", "bootstrap"]  # auto: paired where seeds are shared, else welch
FINITE = 1e300  # MLflow's databases keep infinity as the largest float
NAMED = 3  # in a message


class Metric(NamedTuple):
    name: str
    better: Direction


class Table(NamedTuple):
    """Cells as text, numbers or None."""

    name: str
    columns: Mapping[str, Sequence[Any]]  # of one length
    rows: Sequence[str]  # where each row is, for messages
    notes: tuple[str, ...] = ()
    is_tracked: bool = False  # rows without any of the metrics are runs of another kind

    def column(self, name: str) -> Sequence[Any]:
        if name not in self.columns:
            names = ", ".join(self.columns)
            raise UserError(
                f"{self.name}: no column {shown(name)}{nearest(name, [*self.columns])}; it has {names[:300]}"
            )
        return self.columns[name]


class Groups(NamedTuple):
    metrics: tuple[Metric, ...]
    values: dict[str, dict[str, tuple[float, ...]]]  # by group and seed, one per metric; groups as they come first
    notes: tuple[str, ...]


def parse_metric(text: str) -> Metric:
    """From NAME:min or NAME:max."""
    name, _, direction = text.rpartition(":")
    if not name or direction not in ("min", "max"):
        known = METRICS.get(text)
        hint = {"lower": "min", "higher": "max", None: "min or max"}[known.better] if known else "min or max"
        raise UserError(f"--metric {text}: no direction came, {text.partition(':')[0]}:{hint} was wanted")
    return Metric(name, "lower" if direction == "min" else "higher")


def read_groups(table: Table, group_by: str, over: str, metrics: Sequence[Metric]) -> Groups:
    """UserError for a missing column, a value that is missing or no number, a repeated seed, or too few of them."""
    twice = [name for name, count in Counter(metric.name for metric in metrics).items() if count > 1]
    if not metrics or twice:
        raise UserError(
            f"--metric {' '.join(twice) or 'is missing'}: NAME:min or NAME:max of each metric was wanted, once"
        )
    if group_by == over:
        raise UserError(f"--group-by and --over are both {over}: a column of groups and one of seeds were wanted")
    groups, seeds = table.column(group_by), table.column(over)
    cells = [table.column(metric.name) for metric in metrics]
    taken = [i for i in range(len(groups)) if not (table.is_tracked and all(_is_blank(column[i]) for column in cells))]
    values: dict[str, dict[str, tuple[float, ...]]] = {}
    first_rows: dict[tuple[str, str], str] = {}
    bad: list[str] = []
    for i in taken:
        for name, cell in ((group_by, groups[i]), (over, seeds[i])):
            if _is_blank(cell):
                raise UserError(f"{table.name}, {table.rows[i]}: {name} is empty: give every row a group and a seed")
        group, seed = str(groups[i]), str(seeds[i])
        other = first_rows.setdefault((group, seed), table.rows[i])
        if other != table.rows[i]:
            both = f"{other} and {table.rows[i]} are both {group} with {over} {seed}"
            raise UserError(f"{table.name}: {both}: leave one out, or group by a column that tells them apart")
        numbers = [_number(column[i]) for column in cells]
        bad += [
            f"{table.rows[i]} ({group}, {over} {seed}): {metric.name} is {_in_words(column[i], number)}"
            for metric, column, number in zip(metrics, cells, numbers)
            if not abs(number) < FINITE
        ]
        values.setdefault(group, {})[seed] = tuple(numbers)
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise UserError(f"{table.name}, {bad[0]}{more}: a run that diverged is a result; take such seeds out knowingly")
    _check_numbers(table, group_by, over, values)
    without = len(groups) - len(taken)
    notes = [f"{table.name}: left out {without} runs without {', '.join(m.name for m in metrics)}"] if without else []
    return Groups(tuple(metrics), values, (*table.notes, *notes))


def _check_numbers(table: Table, group_by: str, over: str, values: Mapping[str, Mapping[str, Any]]) -> None:
    if len(values) < 2:
        raise UserError(
            f"{table.name}: {len(values)} groups by {group_by} ({', '.join(values) or 'no rows'}), two were wanted"
        )
    if single := [group for group, seeds in values.items() if len(seeds) < 2]:
        raise UserError(
            f"{table.name}: one {over} in {named(single)}: a difference needs two in every group: "
            "run more, or leave such groups out"
        )


def named(names: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _number(cell: Any) -> float:
    """NaN for what is no number."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def _in_words(cell: Any, number: float) -> str:
    if _is_blank(cell):
        return "missing"
    is_number = not isinstance(cell, str) or cell.strip().lower().lstrip("+-") in ("nan", "inf", "infinity")
    return f"{number}" if is_number or not math.isnan(number) else f"{shown(cell)}, no number"
