"""What a click on the page shows: every measured cell, and the results that it was computed from."""

import os
from typing import Any

from pipeline.config.study import Study
from pipeline.errors import TrilemmaError
from pipeline.store.open import open_store
from pipeline.tables.cells import GUIDANCE, ORDERINGS, cells_of, tables
from pipeline.tables.why import links_of


def page_chains(study: Study) -> dict[str, Any]:
    """All a JSON object can hold once:

    cells: [value, low, high, card, row] by address; rows: numbers of `stages`, or why there are none, by the address
    without its metric; tables: addresses by file, a line each; entries: addresses by run, guided entry or member.
    """
    store = open_store(study)
    stages: dict[tuple[str, str], dict[str, Any]] = {}
    found: dict[str, Any] = {"cells": {}, "rows": {}, "tables": {}, "entries": {}}
    for table in tables(study).values():
        if table.kind == "paper":
            continue  # its cells are those of other tables
        cells = cells_of(table)
        found["tables"][os.path.relpath(table.file, study.folder / "reports")] = [
            cell.address for cell in cells.values()
        ]
        for cell in cells.values():
            row = cell.address.rpartition("/")[0]
            bounds = [cell.low, cell.high] if cell.low == cell.low else [None, None]
            found["cells"][cell.address] = [cell.value, *bounds, cell.row.get("card", ""), row]
            if row not in found["rows"]:
                try:
                    links = {(link.label, link.manifest.digest): link for link in links_of(study, cell, store)}
                    stages |= {id: _without_host(link.json()) for id, link in links.items() if id not in stages}
                    found["rows"][row] = [list(stages).index(id) for id in links]
                except TrilemmaError as error:
                    found["rows"][row] = str(error)
            if table.kind not in ("sweep", "measured") and not table.name.endswith((GUIDANCE, ORDERINGS)):
                found["entries"].setdefault(cell.name.partition("/")[0], []).append(cell.address)
    return found | {"stages": list(stages.values())}


def _without_host(stage: dict[str, Any]) -> dict[str, Any]:
    """A page is for others: the names of one's machines are not."""
    return {name: value for name, value in stage.items() if name != "host"}
