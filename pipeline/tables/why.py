"""`trilemma why`: the cells of a table, or all that one of them depends on."""

from typing import Any

from pipeline.config.study import Study
from pipeline.dag.lineage import Link, chain_links, of_member
from pipeline.store.store import Store
from pipeline.tables.cells import Cell, cells_of, find, find_table, results_of
from pipeline.tables.measured import origin_of

EXACT = "to the bit on the same CPU type and versions"


def explain(study: Study, address: str) -> dict[str, Any]:
    """address: TABLE, whose cells are listed, or TABLE:CELL."""
    if ":" not in address:
        return {"table": address, "cells": [f"{address}:{name}" for name in cells_of(find_table(study, address))]}
    cell = find(study, address)
    has_interval = cell.low == cell.low
    described = {
        "cell": address,
        "measured": cell.address,
        "value": cell.value,
        "ci_low": cell.low if has_interval else None,
        "ci_high": cell.high if has_interval else None,
        "card": cell.row.get("card", ""),
        "tolerance": tolerance_of(cell),
    }
    if cell.table.kind == "measured":
        origin = origin_of(cell.table.file, cell.row)
        return described | {"origin": origin._asdict() | {"again": origin.again}, "stages": []}
    member = cell.name.partition("/")[0] if cell.table.kind == "stack" else ""
    return described | {"stages": [of_member(link.json(), member) for link in links_of(study, cell)]}


def links_of(study: Study, cell: Cell, store: Store | None = None) -> list[Link]:
    """All results that the cell was computed from, each once and after its inputs."""
    links: dict[tuple[str, str], Link] = {}
    for result in results_of(study, cell):
        for link in chain_links(result.study, result.call, result.trial is None, store):
            links.setdefault((link.label, link.manifest.digest), link)
    return list(links.values())


def tolerance_of(cell: Cell) -> str:
    """How far a recomputation may lie from the value: fixed by the table, before anything is computed again."""
    return f"{EXACT}, else within {cell.tolerance:.3g} (1 % of the interval)"
