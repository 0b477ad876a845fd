"""Losses that are weighted sums of terms, so that models that differ only in weights, times and rates train as one."""

from collections.abc import Collection, Hashable, Mapping
from typing import Protocol

from torch import Tensor

from methods.core.types import Batch, Draws, Nets, Trainable


class Weighed(Trainable, Protocol):
    """A method whose `loss` is the `weighed` sum of its `terms`."""

    def weights(self, player: str, step: int) -> dict[str, float]:
        """Of every term of the loss at this step; a term that has none is not computed."""
        ...

    def terms(self, player: str, nets: Nets, batch: Batch, draws: Draws, wanted: Collection[str]) -> dict[str, Tensor]:
        """A scalar for each wanted name of `weights`; pure, and fit for torch.func.vmap. "collapse_statistics" adds
        the metrics of that function."""
        ...

    def structure(self) -> Hashable:
        """Equal where `terms` and `build` do the same: all but what only weights, draws and rates depend on."""
        ...


def weighed(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The sum over the names of weights."""
    first, *others = (weight * terms[name] for name, weight in weights.items())
    return sum(others, start=first)
