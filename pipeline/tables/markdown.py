"""Tables and values as Markdown text."""

from collections.abc import Iterable, Sequence
from math import isnan
from typing import Any


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def bounds(low: float | None, high: float | None, digits: int) -> str:
    """An interval, to follow its value; empty where there is none, as of one seed."""
    return "" if low is None or high is None or isnan(low) else f" [{low:.{digits}g}, {high:.{digits}g}]"


def plus_minus(value: float, low: float, high: float, digits: int = 4) -> str:
    """A value with half the width of its interval, two digits fewer; alone where it is exact or has no interval."""
    half = (high - low) / 2
    return f"{value:.{digits}g}" + (f" ± {half:.{digits - 2}g}" if half > 0 else "")
