"""Tables measured beyond the study at hand, kept under reports/measured/: which study and command made their rows.

They stay as their commands wrote them; `provenance.csv` beside them says of which rows (`column=value;...`; none: all)
which folder, command and commit they come from.
"""

import csv
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError
from pipeline.tables.addresses import Row, fits, names_of

FOLDER, PROVENANCE = "measured", "provenance.csv"


class Origin(NamedTuple):
    """Who made a row."""

    file: str
    rows: str
    study: str  # the folder of its params.yaml, below the project's
    command: str
    commit: str
    machine: str

    @property
    def again(self) -> str:
        return f"cd {self.study} && {self.command}"


def measured_files(root: Path) -> list[Path]:
    return [file for file in sorted((root / "reports" / FOLDER).glob("*.csv")) if file.name != PROVENANCE]


def origin_of(file: Path, row: Row) -> Origin:
    origins = [Origin(**told) for told in csv_rows(file.with_name(PROVENANCE))]
    found = [origin for origin in origins if origin.file == file.name and fits(row, origin.rows)]
    if len(found) != 1:
        about = names_of([row])[0]
        raise UserError(f"{file.name}: {len(found)} lines of {PROVENANCE} tell where {about} comes from: write one")
    return found[0]


def csv_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))
