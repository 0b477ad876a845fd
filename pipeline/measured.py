"""Tables measured beyond the study at hand, kept under reports/measured/: which study and command made their rows.

They stay as their commands wrote them; `provenance.csv` beside them says of which rows (`column=value;...`; none: all)
which folder, command and commit they come from.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.addresses import Row, fits, names_of
from pipeline.errors import UserError
from pipeline.markdown import bounds, markdown_table
from pipeline.runner import say

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
    origins = [Origin(**told) for told in _rows(file.with_name(PROVENANCE))]
    found = [origin for origin in origins if origin.file == file.name and fits(row, origin.rows)]
    if len(found) != 1:
        about = names_of([row])[0]
        raise UserError(f"{file.name}: {len(found)} lines of {PROVENANCE} tell where {about} comes from: write one")
    return found[0]


def measured_sections(root: Path) -> Iterator[str]:
    """The report's part: who made each file, and its rows beside what was printed."""
    files = measured_files(root)
    if files:
        yield "## Measured beyond this study"
    for file in files:
        rows = _rows(file)
        yield f"### {FOLDER}/{file.stem}"
        yield "\n".join(_made(file, rows))
        beside = [(name, row) for name, row in zip(names_of(rows), rows) if row.get("paper_value")]
        if beside:
            lines = [[f"{FOLDER}/{file.stem}:{name}", *_cells(row)] for name, row in beside]
            yield markdown_table(["cell", "measured [95 %]", "training seeds", "real", "printed"], lines)


def _made(file: Path, rows: list[dict[str, str]]) -> Iterator[str]:
    """A line per command; rows of which nobody wrote it down are counted."""
    told: dict[str, None] = {}
    unknown: list[str] = []
    for row in rows:
        try:
            origin = origin_of(file, row)
            about = f"{origin.rows or 'all rows'}: `{origin.again}` at {origin.commit[:12]} on {origin.machine}"
            told[f"- {about}"] = None
        except UserError as error:
            unknown.append(str(error))
    yield from told
    if unknown:
        line = f"{unknown[0]} ({len(unknown)} rows)"
        say(f"report: {line}")
        yield f"- **{line}**"


def _cells(row: Row) -> list[str]:
    value, low, high = (float(row[name] or "nan") for name in ("value", "ci_low", "ci_high"))
    return [f"{value:.4g}{bounds(low, high, 3)}", row["train_seeds"], row["floor"], row["paper_value"]]


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))
