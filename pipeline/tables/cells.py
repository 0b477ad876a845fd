"""Measured values by their address: the tables there are, and which results a cell was computed from."""

import math
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.config.study import Study
from pipeline.dag.graph import STAGES, Call
from pipeline.data.csv_files import read_rows
from pipeline.errors import UserError
from pipeline.sweeps.entry import find_sweep, written
from pipeline.sweeps.overrides import evaluated
from pipeline.sweeps.trials import Trial, trials_of
from pipeline.tables.addresses import Row, names_of
from pipeline.tables.aggregate import repetitions
from pipeline.tables.measured import FOLDER as MEASURED
from pipeline.tables.measured import measured_files, origin_of, where_drawn

ORDERINGS, GUIDANCE = "-orderings", "-guidance"  # how the names of tables of differences end
PAPERS = "paper-tables"
TRANSLATION_FILE = "table.csv"  # beside a translation's page
SUGGESTIONS = 3  # in an error message


class Table(NamedTuple):
    kind: Literal["values", "sweep", "stack", "translate", "paper", "measured"]
    of: str  # the dataset, sweep, stack or translation; of others: its name
    name: str
    file: Path


class Cell(NamedTuple):
    """One measured value."""

    table: Table
    name: str
    value: float
    low: float  # of the 95 % interval; NaN for one seed
    high: float
    row: Row

    @property
    def address(self) -> str:
        return f"{self.table.name}:{self.name}"

    @property
    def tolerance(self) -> float:
        """Of a recomputation elsewhere: 1 % of the interval's width; where there is none the value is exact."""
        return 0.0 if math.isnan(self.low) else 0.01 * (self.high - self.low)


class Result(NamedTuple):
    """The last stage behind a cell; there are several for a mean over training seeds and for a difference."""

    study: Study  # of a sweep: with the trial's settings
    call: Call
    trial: Trial | None = None


def tables(study: Study) -> dict[str, Table]:
    """Those whose files exist, by name."""
    reports = study.folder / "reports"
    folder, papers, pages = (reports / name for name in ("tables", PAPERS, "translations"))
    sweeps = {name: find_sweep(study, name).table for name in study.sweeps}
    found = [Table("values", n, n + end, folder / f"{n}{end}.csv") for n in study.datasets for end in ("", GUIDANCE)]
    found += [Table("sweep", n, name, folder / f"{name}.csv") for n, name in sweeps.items()]
    found += [Table("stack", n, n + end, folder / f"{n}{end}.csv") for n in study.stacks for end in ("", ORDERINGS)]
    found += [Table("paper", file.stem, file.stem, file) for file in sorted(papers.glob("*.csv"))]
    of_pages = {name: pages / name / TRANSLATION_FILE for name in study.translations}
    found += [Table("translate", name, f"translations/{name}", file) for name, file in of_pages.items()]
    found += [Table("measured", file.stem, f"{MEASURED}/{file.stem}", file) for file in measured_files(study.root)]
    return {table.name: table for table in found if table.file.is_file()}


def find(study: Study, address: str) -> Cell:
    """The cell at an address; for one in a paper's table, the measured cell beside it."""
    name, _, cell_name = address.partition(":")
    table = find_table(study, name)
    cells = cells_of(table)
    if cell_name not in cells:
        near = get_close_matches(cell_name, cells, n=SUGGESTIONS, cutoff=0.4)
        hint = f": did you mean {' or '.join(f'{name}:{cell}' for cell in near)}?" if near else ""
        raise UserError(f"no cell {cell_name!r} in {table.file}{hint} (trilemma why {name} lists its cells)")
    cell = cells[cell_name]
    if table.kind != "paper":
        return cell
    if not cell.row["cell"]:
        raise UserError(f"{address}: printed ({cell.row['printed']}), but not measured here: {cell.row['why']}")
    return find(study, cell.row["cell"])


def find_table(study: Study, name: str) -> Table:
    known = tables(study)
    if name not in known:
        near = "".join(f", did you mean {other}?" for other in get_close_matches(name, known, n=1))
        names = ", ".join(known) or "none"
        raise UserError(f"no table {name!r} in reports{near}; there are {names} (dvc repro writes all)")
    return known[name]


def cells_of(table: Table, file: Path | None = None) -> dict[str, Cell]:
    """By name, in the order of the table. file: the same table written elsewhere."""
    rows = read_rows(file or table.file)
    cells = {}
    for name, row in zip(names_of(rows), rows):
        value = next(row[column] for column in ("value", "difference", "measured") if column in row)
        value, low, high = (float(text or math.nan) for text in (value, row["ci_low"], row["ci_high"]))
        cells[name] = Cell(table, name, value, low, high, row)
    return cells


def results_of(study: Study, cell: Cell) -> list[Result]:
    match cell.table.kind:
        case "values":
            sides = [cell.row["run"]] if "unguided" in cell.row or cell.row["guidance"] == "none" else []
            sides += [cell.row["guidance"]] if cell.row["guidance"] != "none" else []
            entries = [entry for side in sides for entry in repetitions(study, side)]
            return [Result(study, STAGES["evaluate"].call(study, entry)) for entry in entries]
        case "sweep":
            trials = trials_of(study, find_sweep(study, cell.table.of), f"sweeps.{cell.table.of}")
            at = [trial for trial in trials if cell.name.startswith(f"{_point(trial)}/")]
            if not at:
                again = f"dvc repro sweep@{cell.table.of}"
                raise UserError(f"{cell.address}: params.yaml has no such point any more: {again}")
            return [Result(trial.study, evaluated(trial.study, trial.point.of)[-1], trial) for trial in at]
        case "stack" | "paper":
            return [Result(study, STAGES["evaluate-stack"].call(study, cell.table.of))]
        case "translate":
            return [Result(study, STAGES["translate"].call(study, cell.table.of))]
        case "measured":
            origin = origin_of(cell.table.file, cell.row)
            at = f"; {where}" if (where := where_drawn(int(origin.draws))) else ""
            raise UserError(f"{cell.address}: measured beyond this study; its own makes it again: {origin.again}{at}")


def _point(trial: Trial) -> str:
    return "/".join([trial.point.of, *(f"{axis}={written(value)}" for axis, value in trial.point.values.items())])
