"""The report's part on committed tables of other studies."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.console import say
from pipeline.data.csv_files import read_rows
from pipeline.errors import UserError
from pipeline.tables.addresses import Row, names_of
from pipeline.tables.markdown import bounds, markdown_table
from pipeline.tables.measured import FOLDER, measured_files, origin_of


def measured_sections(root: Path) -> Iterator[str]:
    """For each file: the commands that made it, and its rows that have a printed value."""
    files = measured_files(root)
    if files:
        yield "## Results of other studies"
    for file in files:
        rows = read_rows(file)
        yield f"### {FOLDER}/{file.stem}"
        yield "\n".join(_origins(file, rows))
        lines = [
            [f"{FOLDER}/{file.stem}:{name}", *_cells(row)]
            for name, row in zip(names_of(rows), rows)
            if row.get("paper_value")
        ]
        if lines:
            yield markdown_table(["cell", "measured [95 %]", "training seeds", "real", "printed"], lines)


def _origins(file: Path, rows: list[dict[str, str]]) -> Iterator[str]:
    """A line per command, then one for the rows whose origin is not in provenance.csv."""
    known: dict[str, None] = {}
    unknown: list[str] = []
    for row in rows:
        try:
            origin = origin_of(file, row)
            where = f"`{origin.again}` at {origin.commit[:12]} on {origin.machine}"
            known[f"- {origin.rows or 'all rows'}: {where}"] = None
        except UserError as error:
            unknown.append(str(error))
    yield from known
    if unknown:
        line = f"{unknown[0]} ({len(unknown)} rows)"
        say(f"report: {line}")
        yield f"- **{line}**"


def _cells(row: Row) -> list[str]:
    value, low, high = (float(row[name] or "nan") for name in ("value", "ci_low", "ci_high"))
    return [f"{value:.4g}{bounds(low, high, 3)}", row["train_seeds"], row["real_vs_real"], row["paper_value"]]
