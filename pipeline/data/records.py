"""The interface of a dataset module: a `Source` yields records."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np


class BadRecord(ValueError):
    """A record that cannot be used: the message names its file and row, and what is wrong with it."""


class Record(NamedTuple):
    """One image or point of a source."""

    image: np.ndarray | Callable[[], np.ndarray]  # [C, H, W] uint8, or [D] float32 for points; a call decodes it
    label: int | None
    split: str  # "train" or "held_out"
    where: str = ""  # file and row, for messages

    def load(self) -> np.ndarray:
        return self.image() if callable(self.image) else self.image


class Source(Protocol):
    """A dataset module's frozen dataclass `Source`: its fields are the options of an entry.

    A source that reads files has a field `path`, a file or folder: its content enters the keys, its name does not.
    An optional property `facts` (the known distribution of simulated data) joins the facts of the prepared data.
    """

    @property
    def label_names(self) -> tuple[str, ...]:
        """Empty if unlabelled."""
        ...

    def records(self) -> Iterator[Record]: ...
