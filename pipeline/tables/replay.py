"""`trilemma replay`: numbers of the tables computed again from the data, in a temporary folder, and compared.

All stages of the chain run with an empty store and without DVC. The tolerance is fixed before: on the same CPU type and
versions all results must be the same to the bit, otherwise a value may differ by 1 % of the cell's interval.
"""

import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pipeline.config.study import Study
from pipeline.console import say
from pipeline.dag.graph import STAGES, chain
from pipeline.dag.lineage import PRESENT, Link, chain_links
from pipeline.dag.run import run_call
from pipeline.dag.usage import MACHINE
from pipeline.data.artifacts import MANIFEST, digest_of
from pipeline.data.csv_files import csv_text
from pipeline.errors import ArtifactError, TrilemmaError, UserError
from pipeline.launch.signals import on_sigterm
from pipeline.store.external import DATA_VARIABLE
from pipeline.store.files import write_file
from pipeline.sweeps.entry import find_sweep
from pipeline.sweeps.summary import table
from pipeline.sweeps.trial import metrics_of
from pipeline.tables.cells import Cell, Result, cells_of, find, results_of, tables
from pipeline.tables.measured import where_drawn
from pipeline.tables.stacks import write_stack_tables
from pipeline.tables.translations import write_translation_table
from pipeline.tables.values import write_tables
from pipeline.tables.why import tolerance_of

Machines = list[dict[str, Any]]


class Replayed(NamedTuple):
    """A cell and its recomputation."""

    cell: str
    printed: float
    replayed: float
    tolerance: float  # 0: to the bit
    same_bits: bool | None  # of the results behind it; None where the first ones are missing
    agrees: bool
    then: Machines  # CPU types and versions of the first computation
    now: Machines


def replay(study: Study, addresses: Sequence[str], sample: int, seed: int) -> list[Replayed]:
    """Those cells, and `sample` random ones of all measured tables; shared stages are computed once."""
    on_sigterm()
    cells = [find(study, address) for address in addresses] + _random_cells(study, sample, seed)
    if not cells:
        raise UserError("no cell was given: name cells (`trilemma why TABLE` lists them) or give --sample N")
    behind = {cell.address: results_of(study, cell) for cell in cells}
    before = {cell.address: _links(behind[cell.address]) for cell in cells}
    for cell in cells:
        say(f"{cell.address} = {cell.value:g}: {tolerance_of(cell)}")
        for link in before[cell.address]:
            if where := where_drawn(_scheme_of(link)):
                raise UserError(f"{cell.address}: {link.label} cannot be replayed: {where}")
            if link.version != PRESENT:
                say(f"{cell.address}: {link.label} is of {link.version} version, but the present code is replayed")
    with TemporaryDirectory(prefix="trilemma-replay-") as folder, _own_store(study, Path(folder)):
        return [_replayed(study, cell, behind[cell.address], before[cell.address], Path(folder)) for cell in cells]


def print_replay(cells: list[Replayed], as_json: bool) -> None:
    """Raises an error if a value disagrees."""
    agreeing, exact = sum(cell.agrees for cell in cells), sum(cell.same_bits is True for cell in cells)
    if as_json:
        print(json.dumps({"agree": agreeing, "of": len(cells), "cells": [cell._asdict() for cell in cells]}, indent=1))
    else:
        for cell in cells:
            how = "the same to the bit" if cell.same_bits else f"within {cell.tolerance:.3g}"
            print(f"{cell.cell}: {cell.printed:g}, again {cell.replayed:g}: {how if cell.agrees else 'DISAGREES'}")
        machines = [("first", machine) for cell in cells for machine in cell.then]
        machines += [("now", machine) for cell in cells for machine in cell.now]
        lines = [f"{when} on {', '.join(f'{name} {value}' for name, value in m.items())}" for when, m in machines]
        print(*dict.fromkeys(lines), sep="\n")
        print(f"{agreeing} of {len(cells)} agree, {exact} of them to the bit")
    if agreeing < len(cells):
        first = next(cell.cell for cell in cells if not cell.agrees)
        raise TrilemmaError(f"{len(cells) - agreeing} of {len(cells)} disagree, first {first}")


def _random_cells(study: Study, count: int, seed: int) -> list[Cell]:
    measured = [table for table in tables(study).values() if table.kind not in ("paper", "measured")]
    cells = [cell for table in measured for cell in cells_of(table).values() if not isnan(cell.value)]
    if count > len(cells):
        raise UserError(f"--sample {count}: this study's tables have {len(cells)} cells")
    return random.Random(seed).sample(cells, count)


@contextmanager
def _own_store(study: Study, folder: Path) -> Iterator[None]:
    """An empty store and tracker in `folder`; external data stay where the study has them."""
    own = {
        "TRILEMMA_STORE": str(folder / "store"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        DATA_VARIABLE: os.environ.get(DATA_VARIABLE) or str(study.folder.absolute()),
    }
    usual = dict(os.environ)
    os.environ.update(own)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(usual)


def _links(results: Sequence[Result]) -> list[Link]:
    """The results that a cell was computed from; empty where the study has its tables but not its results."""
    try:
        return [link for r in results for link in chain_links(r.study, r.call, published=r.trial is None)]
    except ArtifactError:
        return []


def _scheme_of(link: Link) -> int:
    """Of drawing random numbers; 0 for a result that no training made. The first trainings did not note it."""
    trained = link.manifest.stage in ("pretrain", "classify", "discriminate", "stack")
    return link.manifest.facts.get("draws", {"scheme": 1})["scheme"] if trained else 0


def _replayed(study: Study, cell: Cell, results: Sequence[Result], before: list[Link], folder: Path) -> Replayed:
    moved = [_moved(result, folder) for result in results]
    for own, last, _ in moved:
        for call in chain(own, last.stage, last.name):
            if not (call.out / MANIFEST).is_file():
                run_call(own, call)
    again, after = _written(study, cell, moved, folder / "tables"), _links(moved)
    then, now = _machines(before), _machines(after)
    first, second = ({(link.label, link.manifest.digest) for link in links} for links in (before, after))
    same_bits = first == second
    must_be_exact = then == now and all(link.version == PRESENT for link in before)
    tolerance = 0.0 if must_be_exact else cell.tolerance
    agrees = abs(again.value - cell.value) <= tolerance and (same_bits or not must_be_exact)
    known = same_bits if before else None
    return Replayed(cell.address, cell.value, again.value, tolerance, known, agrees, then, now)


def _moved(result: Result, folder: Path) -> Result:
    """The same call in a study below `folder`, one for each trial."""
    own = folder / ("study" if result.trial is None else digest_of(result.trial.id))
    study = replace(result.study, file=own / "params.yaml", out=own / "out")
    return result._replace(study=study, call=STAGES[result.call.stage].call(study, result.call.name))


def _written(study: Study, cell: Cell, moved: Sequence[Result], folder: Path) -> Cell:
    """The cell in its table, written from the recomputed results."""
    file = folder / f"{cell.table.name}.csv"
    match cell.table.kind:
        case "values":
            write_tables(moved[0].study, cell.table.of, folder, [result.call.name for result in moved])
        case "sweep":
            trials = [result.trial for result in moved if result.trial is not None]
            contents = {trial.id: metrics_of(trial, result.call.out) for trial, result in zip(trials, moved)}
            write_file(file, csv_text(table(find_sweep(study, cell.table.of), trials, contents)))
        case "translate":
            file = write_translation_table(moved[0].study, cell.table.of, folder)
        case _:
            write_stack_tables(moved[0].study, cell.table.of, folder)
    return cells_of(cell.table, file)[cell.name]


def _machines(links: Sequence[Link]) -> Machines:
    """The machines that computed them, each once."""
    machines = {tuple(link.ledger.get(name) for name in MACHINE) for link in links}
    return [dict(zip(MACHINE, machine)) for machine in sorted(machines, key=str)]
