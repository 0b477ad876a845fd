"""The interface of a dataset module: a `Source` yields records."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

DARK = 31  # where no value of any picture is larger, a forgotten scaling is likely


def too_dark(largest: int) -> str:
    """A warning."""
    return f"values reach {largest} of 255: was scaling forgotten?"


class BadRecord(ValueError):
    """A record that cannot be used: the message names its file and row, and what is wrong with it."""


class Record(NamedTuple):
    """One image or point of a source."""

    image: np.ndarray | Callable[[], np.ndarray]  # [C, H, W] uint8, or [D] float32 for points; a call decodes it
    label: int | None  # another value is named as one that cannot be used
    split: str  # "train", "held_out", one that only some stages read, or "" if the stage divides the records
    where: str = ""  # file and row, for messages
    attributes: Sequence[int] | None = None  # the number of each attribute's value, where the source names attributes
    tokens: Sequence[int] | None = None  # the caption, padded: all of one length, where the source has a vocabulary

    def load(self) -> np.ndarray:
        return self.image() if callable(self.image) else self.image


class Source(Protocol):
    """A dataset module's frozen dataclass `Source`: its fields are the options of an entry.

    A source that reads files has a field `path`, a file or folder: its content enters the keys, its name does not.
    Records whose image is a `decode.EncodedPicture` come from files: they are put into an order that follows from their
    content, and then divided if their split is "". Others keep their order and split.

    Optional properties: `facts` (the known distribution of simulated data) joins the facts of the prepared data;
    `left_out` has a line for whatever the source holds and `records` does not yield; `held_out_share` of undivided
    records; `limit` of records per split. The last two are applied after the sort.

    `attribute_names`, a mapping of each attribute's name to those of its values, and `vocabulary`, the words by token,
    announce what all its records carry. The class of labelled data is one of the attributes. Records of a split
    `classifier` train the feature network, instead of those of `train`.
    """

    @property
    def label_names(self) -> tuple[str, ...]:
        """Empty if unlabelled."""
        ...

    def records(self) -> Iterator[Record]: ...
