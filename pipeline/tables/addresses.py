"""Addresses of measured values, TABLE:CELL, made from a table's rows.

digits:edm-digits/fd                        entry (a run's name, or that of its guidance), metric
digits:edm-digits/precision@pixels          another extractor than that of the first such row
digits-guidance:edm-digits-dg/fd            a difference
dg-weight:edm-mlp-digits-dg/weight=2/fd     a point of a sweep: entry, every axis, metric
siddm-table-1:siddm-4/hq                    of a stack: method and steps, metric
siddm-table-1-orderings:gan-1/ddgan-2/hq    a difference
siddm-1:SIDDM/4/FID                         printed: method, calls, metric; leads to the measured cell beside it
translations/blocky-digits:edm-digits/start=0.5/fd   image to image: entry, noise level, metric
measured/exact:blind/case=bce/gain          of `studies/exact`: world, guide, metric
measured/mog25:siddm-4/network=mixture-fourier/n_modes=100/hq    another study's, with the columns that identify a row
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.errors import UserError

Row = Mapping[str, str]
STACK_COLUMNS = ("network", "n_modes")  # in a stack's addresses where they differ within a table


def names_of(rows: Iterable[Row]) -> list[str]:
    """The cell's name of each row of a complete table; no two are the same."""
    rows = list(rows)
    identifying = [column for column in STACK_COLUMNS if len({row.get(column) for row in rows}) > 1]
    uses: Counter[str] = Counter()
    by_name: dict[str, Row] = {}
    for row in rows:
        name = _name(row, [f"{column}={row[column]}" for column in identifying])
        uses[name] += 1
        if uses[name] > 1:
            name += f"@{row.get('card', '').partition('@')[0] or row.get('dataset')}"
        if name in by_name:
            raise UserError(f"two rows of a table have the address {name}: {', '.join(row.values())}: take one out")
        by_name[name] = row
    return list(by_name)


def fits(row: Row, condition: str) -> bool:
    """condition: "column=value;..."; a card need only begin with the value."""
    parts = [part.split("=", 1) for part in condition.split(";") if part]
    return all(row[column].startswith(value) if column == "card" else row[column] == value for column, value in parts)


def _name(row: Row, identifying: list[str]) -> str:
    match row:
        case {"method": method, "conditional": conditional, "nfe": calls, "metric": metric, "printed": _}:
            method += " (conditional)" if conditional == "yes" else ""
            parts = [method, *([calls] if calls else [])]
        case {"run": run, "guidance": guidance, "metric": metric}:
            parts = [run if guidance == "none" else guidance]
        case {"a": a, "steps_a": steps_a, "b": b, "steps_b": steps_b, "metric": metric}:
            parts = [f"{a}-{steps_a}", f"{b}-{steps_b}", *identifying]
        case {"method": method, "steps": steps, "metric": metric}:
            parts = [f"{method}-{steps}", *identifying]
        case _:
            columns, metric = list(row), row["metric"]
            axes = columns[columns.index("entry") + 1 : columns.index("metric")]
            parts = [row["entry"], *(f"{axis}={row[axis]}" for axis in axes)]
    return "/".join([*parts, metric])
