"""Committed results of longer studies, under reports/measured/: which study and command made their rows.

The files stay as those commands wrote them; each line of `provenance.csv` beside them names rows (`column=value;...`;
empty: all) and the folder, command and commit that they come from.
"""

from pathlib import Path
from typing import NamedTuple

from pipeline.data.csv_files import read_rows
from pipeline.errors import UserError
from pipeline.tables.addresses import Row, fits, names_of

FOLDER, PROVENANCE = "measured", "provenance.csv"


class Origin(NamedTuple):
    """Where a row comes from; the fields are the columns of provenance.csv."""

    file: str
    rows: str
    study: str  # the folder of its params.yaml, below the project's
    command: str
    commit: str
    machine: str

    @property
    def again(self) -> str:
        """The shell command that computes the row again."""
        return f"cd {self.study} && {self.command}"


def measured_files(root: Path) -> list[Path]:
    return [file for file in sorted((root / "reports" / FOLDER).glob("*.csv")) if file.name != PROVENANCE]


def origin_of(file: Path, row: Row) -> Origin:
    origins = [Origin(**line) for line in read_rows(file.with_name(PROVENANCE))]
    fitting = [origin for origin in origins if origin.file == file.name and fits(row, origin.rows)]
    if len(fitting) != 1:
        name = names_of([row])[0]
        raise UserError(f"{file.name}: {len(fitting)} lines of {PROVENANCE} give the origin of {name}: write one")
    return fitting[0]
