"""Tables in files: CSV, Parquet, and the export of runs from Weights & Biases."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.data.foreign_files import head_of, wrong_file
from pipeline.errors import UserError
from pipeline.tables.outside.groups import Table

TEXT = (".csv", ".tsv", ".txt")
PARQUET = ".parquet"
FINISHED = "finished"


def read_file(file: Path) -> Table:
    """By the ending of its name."""
    if file.suffix not in (*TEXT, PARQUET):
        raise UserError(f"{file}: {', '.join((*TEXT, PARQUET))}, mlflow:EXPERIMENT or wandb:FILE.csv was wanted")
    if not file.is_file():
        raise UserError(f"{file} does not exist: pass a table with one row per run")
    if wrong := wrong_file(head_of(file)):
        raise UserError(f"{file}: {wrong}")
    return _read_parquet(file) if file.suffix == PARQUET else _read_text(file)


def read_wandb(file: Path) -> Table:
    """The table of runs that Weights & Biases exports; runs that did not finish are left out."""
    table = read_file(file)
    if "Step" in table.columns and any(" - " in name for name in table.columns):
        raise UserError(f"{file} is the export of a chart: export the table of runs, which has a row per run")
    states = table.columns.get("State", [FINISHED] * len(table.rows))
    kept = [i for i, state in enumerate(states) if str(state).lower() == FINISHED]
    columns = {name: [cells[i] for i in kept] for name, cells in table.columns.items()}
    notes = unfinished_note(str(file), Counter(str(state) for state in states if str(state).lower() != FINISHED))
    return Table(str(file), columns, [table.rows[i] for i in kept], notes, is_tracked=True)


def unfinished_note(name: str, states: Counter[str]) -> tuple[str, ...]:
    """states: of runs that are left out."""
    if not states:
        return ()
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return (f"{name}: left out runs that did not finish ({counts}); if they diverged, that is a result too",)


def _read_text(file: Path) -> Table:
    """The separator is the one of comma, semicolon and tab that the first line has most of."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            separator = max(",;\t", key=stream.readline().count)
            stream.seek(0)
            reader = csv.reader(stream, delimiter=separator)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is no table in UTF-8 text ({error}): export it again") from None
    if not lines:
        raise UserError(f"{file} has no rows: pass a table with one row per run")
    (_, header), *rows = lines
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise UserError(f"{file}: two columns are named {twice[0]!r}: rename one")
    for number, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{file}, line {number}: {len(cells)} cells under {len(header)} names: export it again")
    cells_of = zip(*(cells for _, cells in rows)) if rows else ((),) * len(header)
    columns: dict[str, Any] = dict(zip(header, cells_of))
    return Table(str(file), columns, [f"line {number}" for number, _ in rows])


def _read_parquet(file: Path) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        content = parquet.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is no readable Parquet file ({str(error).splitlines()[0]}): write it again") from None
    columns = {name: content.column(name).to_pylist() for name in content.column_names}
    return Table(str(file), columns, [f"row {i + 1}" for i in range(content.num_rows)])
