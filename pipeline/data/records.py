"""What every dataset yields."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np


class BadRecord(ValueError):
    """A record that cannot be used: the message names its file and row, and what is wrong with it."""


class Record(NamedTuple):
    """One picture of a source, in the source's own order."""

    image: np.ndarray | Callable[[], np.ndarray]  # [C, H, W] uint8, or [D] float32 for points; a call decodes it
    label: int | None
    split: str  # "train" or "held_out"
    where: str = ""  # file and row, for messages

    def load(self) -> np.ndarray:
        return self.image() if callable(self.image) else self.image


class Source(Protocol):
    """A dataset module's frozen dataclass `Source`: its fields are the options of an entry.

    One that reads files has a field `path`: a file or folder, which enters keys by its content alone.
    A property `facts`, where there is one, goes into the facts of the prepared data: what is known of their law.
    """

    @property
    def label_names(self) -> tuple[str, ...]:
        """Empty if unlabelled."""
        ...

    def records(self) -> Iterator[Record]: ...
