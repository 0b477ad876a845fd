"""What a reader of files took and what it left: nothing is left out without a word."""

from collections import Counter
from dataclasses import dataclass, field

from pipeline.data.records import DARK, too_dark


@dataclass
class Intake:
    """Of one source, filled while its samples are read."""

    left_out: list[str] = field(default_factory=list)  # a line for each kind of thing, with its number and an example
    notes: list[str] = field(default_factory=list)  # other warnings
    changed: Counter[str] = field(default_factory=Counter)  # how many pictures each rule of `decode.PIXELS` changed
    largest: int | None = None  # of all values of pictures

    def warnings(self) -> tuple[str, ...]:
        """Complete after the last sample."""
        dark = [too_dark(self.largest)] if self.largest is not None and self.largest <= DARK else []
        return (*(f"left out {line}" for line in self.left_out), *self.notes, *dark)
