"""Tables and values of the report as text."""

from math import isnan
from typing import Any


def markdown_table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def bounds(low: float | None, high: float | None, digits: int) -> str:
    """An interval to stand behind its value; nothing where there is none, as of one seed."""
    return "" if low is None or high is None or isnan(low) else f" [{low:.{digits}g}, {high:.{digits}g}]"
