"""Addresses of measured values, TABLE:CELL, read off a table's rows.

digits:edm-digits/fd                        entry (a run's name, or that of its guidance), metric
digits:edm-digits/precision@pixels          another extractor than that of the first such row
digits-guidance:edm-digits-dg/fd            a difference
dg-weight:edm-mlp-digits-dg/weight=2/fd     a point of a sweep: entry, every axis, metric
siddm-table-1:siddm-4/hq                    of a stack: method and steps, metric
siddm-table-1-orderings:gan-1/ddgan-2/hq    a difference
siddm-1:SIDDM/4/FID                         printed: method, calls, metric; stands for the measured cell beside it
translations/blocky-digits:edm-digits/start=0.5/fd   image to image: entry, noise level, metric
measured/exact:blind/case=bce/gain          of `studies/exact`: world, guide, metric
measured/mog25:siddm-4/network=mixture-fourier/n_modes=100/hq    beyond this study: with what tells its rows apart
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.errors import UserError

Row = Mapping[str, str]
TELLING = ("network", "n_modes")  # of stacks: in the address where they differ within a table


def names_of(rows: Iterable[Row]) -> list[str]:
    """Of the cells of a whole table, one per row, no two the same."""
    rows = list(rows)
    telling = [column for column in TELLING if len({row.get(column) for row in rows}) > 1]
    seen: Counter[str] = Counter()
    found: dict[str, Row] = {}
    for row in rows:
        name = _name(row, telling)
        seen[name] += 1
        extractor = row.get("card", "").partition("@")[0]
        name = name if seen[name] == 1 else f"{name}@{extractor or row.get('dataset')}"
        if name in found:
            raise UserError(f"two rows of a table have the address {name}: {', '.join(row.values())}: take one out")
        found[name] = row
    return list(found)


def fits(row: Row, wanted: str) -> bool:
    """wanted: "column=value;..."; a card is named by how it begins."""
    parts = [part.split("=", 1) for part in wanted.split(";") if part]
    return all(row[column].startswith(value) if column == "card" else row[column] == value for column, value in parts)


def _name(row: Row, telling: Iterable[str]) -> str:
    about = [f"{column}={row[column]}" for column in telling]
    match row:
        case {"method": method, "conditional": conditional, "nfe": calls, "metric": metric, "printed": _}:
            method += " (conditional)" if conditional == "yes" else ""
            return "/".join([method, *([calls] if calls else []), metric])
        case {"run": run, "guidance": guidance, "metric": metric}:
            return f"{run if guidance == 'none' else guidance}/{metric}"
        case {"a": a, "steps_a": steps_a, "b": b, "steps_b": steps_b, "metric": metric}:
            return "/".join([f"{a}-{steps_a}", f"{b}-{steps_b}", *about, metric])
        case {"method": method, "steps": steps, "metric": metric}:
            return "/".join([f"{method}-{steps}", *about, metric])
        case _:
            columns = list(row)
            axes = columns[columns.index("entry") + 1 : columns.index("metric")]
            return "/".join([row["entry"], *(f"{axis}={row[axis]}" for axis in axes), row["metric"]])
