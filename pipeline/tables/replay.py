"""`trilemma replay`: numbers of the tables computed again from nothing, in a folder of their own, and compared.

The whole chain runs through the same stages with an empty store and without DVC. What a value may differ by is known
before: on the same CPU type and versions all results must be the same to the bit, else 1 % of the cell's interval.
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
from pipeline.errors import ArtifactError, TrilemmaError, UserError
from pipeline.launch.signals import on_sigterm
from pipeline.store.external import DATA_VARIABLE
from pipeline.store.files import write_file
from pipeline.store.open import open_store
from pipeline.sweeps.summary import as_csv, table
from pipeline.sweeps.trial import content_of
from pipeline.tables.cells import Cell, Result, cells_of, find, results_of, sweep_of, tables
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
    same_bits: bool | None  # of the results behind it; None where the first ones are not at hand
    agrees: bool
    then: Machines  # CPU types and versions of the first computation
    now: Machines


def replay(study: Study, addresses: Sequence[str], sample: int, seed: int) -> list[Replayed]:
    """Those cells, and `sample` random ones of all measured tables; what they share is computed once."""
    on_sigterm()
    cells = [find(study, address) for address in addresses] + _random_cells(study, sample, seed)
    if not cells:
        raise UserError("nothing came: name cells (`trilemma why TABLE` lists them) or give --sample N")
    behind = {cell.address: results_of(study, cell) for cell in cells}
    before = {cell.address: _links(behind[cell.address]) for cell in cells}
    for cell in cells:
        say(f"{cell.address} = {cell.value:g}: {tolerance_of(cell)}")
        for link in before[cell.address]:
            if link.version != PRESENT:
                say(f"{cell.address}: {link.label} is of {link.version} version: the present code is what is replayed")
    with TemporaryDirectory(prefix="trilemma-replay-") as folder, _apart(study, Path(folder)):
        return [_replayed(study, cell, behind[cell.address], before[cell.address], Path(folder)) for cell in cells]


def print_replay(found: list[Replayed], as_json: bool) -> None:
    """Fails if a value disagrees."""
    agreeing, exact = sum(one.agrees for one in found), sum(one.same_bits is True for one in found)
    if as_json:
        print(json.dumps({"agree": agreeing, "of": len(found), "cells": [one._asdict() for one in found]}, indent=1))
    else:
        for one in found:
            how = "the same to the bit" if one.same_bits else f"within {one.tolerance:.3g}"
            print(f"{one.cell}: {one.printed:g}, again {one.replayed:g}: {how if one.agrees else 'DISAGREES'}")
        then, now = ([machine for side in sides for machine in side] for sides in zip(*(one[-2:] for one in found)))
        for what, machines in (("first", then), ("now", now)):
            told = [", ".join(f"{name} {value}" for name, value in m.items()) for m in machines]
            print("\n".join(f"{what} on {line}" for line in dict.fromkeys(told)))
        print(f"{agreeing} of {len(found)} agree, {exact} of them to the bit")
    if agreeing < len(found):
        worst = next(one for one in found if not one.agrees)
        raise TrilemmaError(f"{len(found) - agreeing} of {len(found)} disagree, first {worst.cell}")


def _random_cells(study: Study, count: int, seed: int) -> list[Cell]:
    measured = [table for table in tables(study).values() if table.kind not in ("paper", "measured")]
    cells = [cell for table in measured for cell in cells_of(table).values() if not isnan(cell.value)]
    if count > len(cells):
        raise UserError(f"--sample {count}: this study's tables have {len(cells)} cells")
    return random.Random(seed).sample(cells, count)


@contextmanager
def _apart(study: Study, folder: Path) -> Iterator[None]:
    """An empty store and tracker; data are still found where the study has them."""
    own = {
        "TRILEMMA_STORE": str(folder / "store"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        DATA_VARIABLE: os.environ.get(DATA_VARIABLE) or str(study.folder.absolute()),
    }
    usual = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in usual.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _links(results: Sequence[Result]) -> list[Link]:
    """All that a cell was computed from; nothing where the study's results are not at hand, but only its tables."""
    try:
        return [link for one in results for link in chain_links(one.study, one.call, published=one.trial is None)]
    except ArtifactError:
        return []


def _replayed(study: Study, cell: Cell, results: Sequence[Result], before: list[Link], folder: Path) -> Replayed:
    moved = [_moved(result, folder) for result in results]
    for result in moved:
        for call in chain(result.study, result.call.stage, result.call.name):
            if not (call.out / MANIFEST).is_file():
                run_call(result.study, call, open_store(result.study))
    again, after = _written(study, cell, moved, folder / "tables"), _links(moved)
    then, now = _machines(before), _machines(after)
    same_bits = {(one.label, one.manifest.digest) for one in before} == {
        (one.label, one.manifest.digest) for one in after
    }
    must_be_exact = then == now and all(link.version == PRESENT for link in before)
    tolerance = 0.0 if must_be_exact else cell.tolerance
    agrees = abs(again.value - cell.value) <= tolerance and (same_bits or not must_be_exact)
    told = tolerance, (same_bits if before else None), agrees
    return Replayed(cell.address, cell.value, again.value, *told, then, now)


def _moved(result: Result, folder: Path) -> Result:
    """The same in a study of its own below `folder`, which is no other trial's."""
    own = folder / ("study" if result.trial is None else digest_of(result.trial.id))
    study = replace(result.study, file=own / "params.yaml", out=own / "out")
    return result._replace(study=study, call=STAGES[result.call.stage].call(study, result.call.name))


def _written(study: Study, cell: Cell, moved: Sequence[Result], folder: Path) -> Cell:
    """The cell in its table, written anew of what was computed again."""
    file = folder / f"{cell.table.name}.csv"
    match cell.table.kind:
        case "values":
            write_tables(moved[0].study, cell.table.of, folder, [result.call.name for result in moved])
        case "sweep":
            trials = [result.trial for result in moved if result.trial is not None]
            contents = {trial.id: content_of(trial, result.call.out) for trial, result in zip(trials, moved)}
            write_file(file, as_csv(table(sweep_of(study, cell.table.of), trials, contents)))
        case "translate":
            file = write_translation_table(moved[0].study, cell.table.of, folder)
        case _:
            write_stack_tables(moved[0].study, cell.table.of, folder)
    return cells_of(cell.table, file)[cell.name]


def _machines(links: Sequence[Link]) -> Machines:
    """What computed them, each once."""
    found = {tuple(link.ledger.get(name) for name in MACHINE) for link in links}
    return [dict(zip(MACHINE, machine)) for machine in sorted(found, key=str)]
