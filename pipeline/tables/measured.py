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
# By number of a scheme of drawing random numbers in training that the code had before: the last commit that has it.
LAST_COMMITS = {1: "f9f989e935cd"}


class Origin(NamedTuple):
    """Where a row comes from; the fields are the columns of provenance.csv."""

    file: str
    rows: str
    study: str  # the folder of its params.yaml, below the project's
    command: str
    commit: str
    machine: str
    draws: str  # number of its scheme of drawing random numbers: `SCHEME` of methods/core/rng.py then

    @property
    def again(self) -> str:
        """The shell command that computes the row again."""
        return f"cd {self.study} && {self.command}"


def where_drawn(scheme: int) -> str:
    """The commit that still draws random numbers so; "" if the present code does."""
    if scheme not in LAST_COMMITS:
        return ""
    return f"the present code draws other random numbers, the last to draw these is git checkout {LAST_COMMITS[scheme]}"


def measured_files(root: Path) -> list[Path]:
    return [file for file in sorted((root / "reports" / FOLDER).glob("*.csv")) if file.name != PROVENANCE]


def origin_of(file: Path, row: Row) -> Origin:
    origins = [Origin(**line) for line in read_rows(file.with_name(PROVENANCE))]
    fitting = [origin for origin in origins if origin.file == file.name and fits(row, origin.rows)]
    if len(fitting) != 1:
        name = names_of([row])[0]
        raise UserError(f"{file.name}: {len(fitting)} lines of {PROVENANCE} give the origin of {name}: write one")
    return fitting[0]
