"""Tables as CSV, all in one format, so that equal tables are equal files."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


DIGITS = 6  # significant, of every number in a table


def csv_text(table: "pd.DataFrame", digits: int | None = DIGITS) -> str:
    """digits: None for all."""
    return table.to_csv(index=False, float_format=None if digits is None else f"%.{digits}g", lineterminator="\n")


def read_rows(file: Path) -> list[dict[str, str]]:
    """Every cell as the text that stands in the file."""
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))
