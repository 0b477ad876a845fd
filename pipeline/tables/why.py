"""`trilemma why`: the cells of a table, or all that one of them depends on."""

from typing import Any

from pipeline.config.study import Study
from pipeline.dag.lineage import Link, chain_links, of_member
from pipeline.data.artifacts import canonical
from pipeline.store.store import Store
from pipeline.tables.cells import Cell, cells_of, find, find_table, results_of
from pipeline.tables.measured import origin_of

EXACT = "to the bit on the same CPU type and versions"


def explain(study: Study, address: str) -> dict[str, Any]:
    """address: TABLE, whose cells are listed, or TABLE:CELL."""
    if ":" not in address:
        table = find_table(study, address)
        cells = cells_of(table)
        return {"table": address, "cells": [f"{address}:{name}" for name in cells]}
    cell = find(study, address)
    if cell.table.kind == "measured":
        origin = origin_of(cell.table.file, cell.row)
        return {"cell": address, **_told(cell), "origin": origin._asdict() | {"again": origin.again}, "stages": []}
    member = cell.name.partition("/")[0] if cell.table.kind == "stack" else ""
    stages = [of_member(link.json(), member) for link in links_of(study, cell)]
    return {"cell": address, **_told(cell), "stages": stages}


def links_of(study: Study, cell: Cell, store: Store | None = None) -> list[Link]:
    """Everything the cell was computed from, once, each result after its inputs."""
    found: dict[tuple[str, str], Link] = {}
    for result in results_of(study, cell):
        for link in chain_links(result.study, result.call, result.trial is None, store):
            found.setdefault((link.label, link.manifest.digest), link)
    return list(found.values())


def tolerance_of(cell: Cell) -> str:
    """What a recomputation must keep to: known from the card and the interval before anything is computed again."""
    return f"{EXACT}, else within {cell.tolerance:.3g} (1 % of the interval)"


def print_why(found: dict[str, Any]) -> None:
    """For people."""
    if "cells" in found:
        print("\n".join(found["cells"]))
        return
    answers = f", answered by {found['measured']}" if found["measured"] != found["cell"] else ""
    interval = "" if found["ci_low"] is None else f" [{found['ci_low']:g}, {found['ci_high']:g}]"
    print(f"{found['cell']} = {found['value']:g}{interval}{answers}")
    told = {"card": found["card"], "replay": found["tolerance"], **found.get("origin", {})}
    print("\n".join(f"{name}: {text}" for name, text in told.items() if text))
    for stage in found["stages"]:
        print(f"\n{stage['stage']} {stage['name']}: {stage['command']}")
        code = stage["code"][:12] if stage["code"] else f"of {stage['version']} version"
        seconds = "" if stage["seconds"] is None else f", {stage['seconds']:g} s on {stage['cpu'] or stage['device']}"
        lines = {
            "key": f"{(stage['key'] or 'not in this store')[:12]}, code {code}, commit {(stage['commit'] or '?')[:12]}",
            "made": f"{stage['time'] or '?'}{seconds}, MLflow run {stage['mlflow_run'] or '?'}",
            "parameters": canonical(stage["parameters"]),
            "inputs": _digests(stage["inputs"]),
            "seeds": canonical(stage["seeds"]),
            "files": _digests(stage["files"]),
        }
        print("\n".join(f"  {name:<10} {text}" for name, text in lines.items() if text not in ("", "{}")))


def _told(cell: Cell) -> dict[str, Any]:
    has_interval = cell.low == cell.low
    return {
        "measured": cell.address,
        "value": cell.value,
        "ci_low": cell.low if has_interval else None,
        "ci_high": cell.high if has_interval else None,
        "card": cell.row.get("card", ""),
        "tolerance": tolerance_of(cell),
    }


def _digests(found: dict[str, str]) -> str:
    return "  ".join(f"{name} {digest[:12]}" for name, digest in found.items())
