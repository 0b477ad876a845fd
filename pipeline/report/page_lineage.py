"""Data of the page's dialog: every measured cell, and the results that it was computed from."""

import os
from typing import Any

from pipeline.config.study import Study
from pipeline.errors import TrilemmaError
from pipeline.store.open import open_store
from pipeline.tables.cells import GUIDANCE, ORDERINGS, cells_of, tables
from pipeline.tables.why import links_of


def page_lineage(study: Study) -> dict[str, Any]:
    """Each piece of information once:

    cells: [value, low, high, card, row] by address; rows: by the address without its metric, numbers of `stages`, or
    the reason why there are none; tables: addresses by file, one per line; entries: addresses by run, guided entry or
    member of a stack.
    """
    store = open_store(study)
    stages: dict[tuple[str, str], dict[str, Any]] = {}
    cells, rows, files, entries = ({} for _ in range(4))
    for table in tables(study).values():
        if table.kind == "paper":
            continue  # its cells are those of other tables
        in_table = cells_of(table).values()
        files[os.path.relpath(table.file, study.folder / "reports")] = [cell.address for cell in in_table]
        for cell in in_table:
            row = cell.address.rpartition("/")[0]
            bounds = [cell.low, cell.high] if cell.low == cell.low else [None, None]
            cells[cell.address] = [cell.value, *bounds, cell.row.get("card", ""), row]
            if row not in rows:
                try:
                    links = {(link.label, link.manifest.digest): link for link in links_of(study, cell, store)}
                    stages |= {id: _without_host(link.json()) for id, link in links.items() if id not in stages}
                    rows[row] = [list(stages).index(id) for id in links]
                except TrilemmaError as error:
                    rows[row] = str(error)
            if table.kind not in ("sweep", "measured") and not table.name.endswith((GUIDANCE, ORDERINGS)):
                entries.setdefault(cell.name.partition("/")[0], []).append(cell.address)
    return {"cells": cells, "rows": rows, "tables": files, "entries": entries, "stages": list(stages.values())}


def _without_host(stage: dict[str, Any]) -> dict[str, Any]:
    """A page may be given to others: it does not contain the names of one's machines."""
    return {name: value for name, value in stage.items() if name != "host"}
