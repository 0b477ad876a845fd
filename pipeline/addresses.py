"""Addresses of measured values, TABLE:CELL, read off a table's rows.

digits:edm-digits/fd                        entry (a run's name, or that of its guidance), metric
digits:edm-digits/precision@pixels          another extractor than that of the first such row
digits-guidance:edm-digits-dg/fd            a difference
dg-weight:edm-mlp-digits-dg/weight=2/fd     a point of a sweep: entry, every axis, metric
siddm-table-1:siddm-4/hq                    of a stack: method and steps, metric
siddm-table-1-orderings:gan-1/ddgan-2/hq    a difference
siddm-1:SIDDM/4/FID                         printed: method, calls, metric; stands for the measured cell beside it
"""

from collections import Counter
from collections.abc import Iterable, Mapping

Row = Mapping[str, str]


def names_of(rows: Iterable[Row]) -> list[str]:
    """Of the cells of a whole table, one per row, no two the same."""
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        name = _name(row)
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}@{row['card'].partition('@')[0] or row['dataset']}")
    return found


def _name(row: Row) -> str:
    match row:
        case {"method": method, "conditional": conditional, "nfe": calls, "metric": metric, "printed": _}:
            about = " (conditional)" if conditional == "yes" else ""
            return "/".join([method + about, *([calls] if calls else []), metric])
        case {"run": run, "guidance": guidance, "metric": metric}:
            return f"{run if guidance == 'none' else guidance}/{metric}"
        case {"a": a, "steps_a": steps_a, "b": b, "steps_b": steps_b, "metric": metric}:
            return f"{a}-{steps_a}/{b}-{steps_b}/{metric}"
        case {"method": method, "steps": steps, "metric": metric}:
            return f"{method}-{steps}/{metric}"
        case _:
            columns = list(row)
            axes = columns[columns.index("entry") + 1 : columns.index("metric")]
            return "/".join([row["entry"], *(f"{axis}={row[axis]}" for axis in axes), row["metric"]])
