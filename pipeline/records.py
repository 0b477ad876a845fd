"""What every dataset yields."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np


class Record(NamedTuple):
    """One picture of a source, in the source's own order."""

    image: np.ndarray  # [C, H, W] uint8, or [D] float32 for points
    label: int | None
    split: str  # "train" or "held_out"


class Source(Protocol):
    """A dataset module's frozen dataclass `Source`: its fields are the options of an entry.

    A property `facts`, where there is one, goes into the facts of the prepared data: what is known of their law.
    """

    @property
    def label_names(self) -> tuple[str, ...]:
        """Empty if unlabelled."""
        ...

    def records(self) -> Iterator[Record]: ...
