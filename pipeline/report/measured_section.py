"""The report on committed tables of longer studies."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.console import say
from pipeline.errors import UserError
from pipeline.tables.addresses import Row, names_of
from pipeline.tables.markdown import bounds, markdown_table
from pipeline.tables.measured import FOLDER, csv_rows, measured_files, origin_of


def measured_sections(root: Path) -> Iterator[str]:
    """The report's part: who made each file, and its rows beside what was printed."""
    files = measured_files(root)
    if files:
        yield "## Measured beyond this study"
    for file in files:
        rows = csv_rows(file)
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
    return [f"{value:.4g}{bounds(low, high, 3)}", row["train_seeds"], row["real_vs_real"], row["paper_value"]]
