"""Which measured row answers a printed value: `Study.analogues`, and the rows that it names.

Each line names printed values by shell patterns (an empty one fits any) and the row of a table to compare them with.
The first line that covers a printed value answers it; `file` empty: not measured, `note` states what it needs. A study
without the file answers nothing.
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from pipeline.data.csv_files import read_rows
from pipeline.errors import UserError
from pipeline.metrics.intervals import Measured, by_seed_values, compared
from pipeline.tables.addresses import Row, fits, names_of
from pipeline.tables.measured import FOLDER

KEY = ("paper", "table", "dataset", "conditional", "method", "nfe", "metric")
ANALOGUES = "analogues.csv"
COLUMNS = (*KEY, "file", "row", "baseline", "scale", "note")
SAME = "same experiment"  # the only scale at which sizes are compared; others, such as SMALL, compare orders
SMALL = "small-scale analogue"
DELTA = "(delta)"  # how a printed method ends whose value is a difference from its table's baseline
# Printed metric -> the measured ones that are the same quantity; of the same experiment, the first alone.
MEASURED_AS = {
    "FID": ("fid", "fd", "frechet_2d"), "FID_700K": ("fid", "fd"), "FID_1200K": ("fid", "fd"),
    "FID(2-D Frechet)": ("frechet_2d",), "sFID": ("sfid",), "IS": ("is",), "Precision": ("precision",),
    "Recall": ("recall",), "F1": ("f1",), "NLL_bpd": ("nll",),
}  # fmt: skip


class Counterpart(NamedTuple):
    """The measured value to compare a printed one with; the fields but `sample` are columns of the ledger."""

    measured: float
    ci_low: float
    ci_high: float
    train_seeds: int
    sample_seeds: int
    scale: str
    card: str
    cell: str  # its address
    baseline: str  # the address of what was subtracted from it; "" where the printed value is no difference
    note: str
    warnings: str
    sample: Measured  # of the cell, nothing subtracted


class Tables:
    """Tables of a study, read once: those of `reports`, and committed ones of other studies beside the papers."""

    def __init__(self, reports: Path, papers: Path) -> None:
        self._reports, self._committed = reports, papers.parent
        self._read: dict[str, list[dict[str, str]] | None] = {}

    def rows(self, file: str) -> list[dict[str, str]] | None:
        """None: the file does not exist."""
        if file not in self._read:
            path = (self._committed if file.startswith(f"{FOLDER}/") else self._reports) / file
            self._read[file] = read_rows(path) if path.is_file() else None
        return self._read[file]


def read_analogues(file: Path) -> list[Row]:
    lines: list[Row] = list(read_rows(file)) if file.is_file() else []
    if lines and tuple(lines[0]) != COLUMNS:
        raise UserError(f"{file}: columns are {', '.join(lines[0])}: write {', '.join(COLUMNS)}")
    return lines


def covers(analogue: Row, printed: Mapping[str, str]) -> bool:
    return all(not analogue[name] or fnmatchcase(printed[name], analogue[name]) for name in KEY)


def counterpart(analogue: Row, printed: Row, tables: Tables) -> tuple[Counterpart | None, str]:
    """The measured value that the analogue names, or what is missing for it."""
    file = analogue["file"]
    if not file:
        return None, analogue["note"]
    own, missing = _find(file, analogue["row"], printed, tables)
    if own is None:
        return None, missing
    _check_quantity(analogue, printed, own[1])
    value, cell, address = _sample(own[1]), _seeds(own[1]), _address(file, own[0])
    measured, baseline = (value.mean, value.low, value.high), ""
    if analogue["baseline"]:
        other, missing = _find(file, analogue["baseline"], printed, tables)
        if other is None:
            return None, missing
        measured, baseline = compared(value, _sample(other[1]))[:3], _address(file, other[0])
    described = analogue["scale"], own[1]["card"], address, baseline, analogue["note"], own[1].get("warnings", "")
    return Counterpart(*measured, *cell, *described, value), ""


def _find(file: str, row: str, printed: Row, tables: Tables) -> tuple[tuple[str, Row] | None, str]:
    """The one row that fits, after its name; or what is missing."""
    rows = tables.rows(file)
    if rows is None:
        how = "measured beyond this study" if file.startswith(f"{FOLDER}/") else "dvc repro"
        return None, f"reports/{file}, which is missing: {how}"
    condition = row.format(**{name: printed[name] for name in KEY})
    unknown = [column for part in condition.split(";") if rows and (column := part.partition("=")[0]) not in rows[0]]
    if unknown:
        raise UserError(f"{ANALOGUES}: {file} has no column {', '.join(unknown)}; it has {', '.join(rows[0])}")
    fitting = [(name, row) for name, row in zip(names_of(rows), rows) if fits(row, condition)]
    if len(fitting) > 1:
        raise UserError(f"{ANALOGUES}: {len(fitting)} rows of {file}:{condition}: name one of them")
    return (fitting[0], "") if fitting else (None, f"a row {file}:{condition}")


def _check_quantity(analogue: Row, printed: Row, row: Row) -> None:
    known = MEASURED_AS.get(printed["metric"], ())
    allowed = known[:1] if analogue["scale"] == SAME else known
    what = f"{ANALOGUES}: {printed['method']}, {printed['metric']}"
    if row["metric"] not in allowed:
        wanted = " or ".join(allowed) or "nothing measured"
        raise UserError(f"{what}: answered by {row['metric']}, which is another quantity: {wanted} was wanted")
    if printed["method"].endswith(DELTA) != bool(analogue["baseline"]):
        raise UserError(f"{what}: `baseline` must name a row where a difference was printed, and only there")


def _sample(row: Row) -> Measured:
    """n: training seeds, or sampling seeds of the one network."""
    value, low, high = (float(row[column] or math.nan) for column in ("value", "ci_low", "ci_high"))
    train, sampled = _seeds(row)
    return Measured(value, low, high, train if train > 1 else sampled, by_seed_values(row.get("by_seed", "")))


def _seeds(row: Row) -> tuple[int, int]:
    return int(float(row["train_seeds"])), int(float(row.get("sample_seeds") or 1))


def _address(file: str, name: str) -> str:
    return f"{file.removeprefix('tables/').removesuffix('.csv')}:{name}"
