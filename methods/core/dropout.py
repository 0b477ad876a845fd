"""Dropout whose masks a training step draws: the same for any number of workers, and equal in two passes if wanted."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.core.rng import StepRng

_rng: ContextVar[StepRng | None] = ContextVar("_rng", default=None)


@contextmanager
def masks_from(rng: StepRng) -> Iterator[None]:
    """Within, `dropout` draws its masks from rng, after the draws that were made before."""
    token = _rng.set(rng)
    try:
        yield
    finally:
        _rng.reset(token)


@contextmanager
def repeated_masks() -> Iterator[None]:
    """What follows this block draws the same masks as the block itself; for a loss within `masks_from`.

    `with repeated_masks(): y = net(x)`, then `target = net(x_later)`: two passes with equal masks, layer by layer; also
    of two networks that have equal layers.
    """
    rng = _rng.get()
    states = [] if rng is None else [generator.get_state() for generator in rng.generators]
    yield
    for generator, state in zip([] if rng is None else rng.generators, states):
        generator.set_state(state)


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zeros with that probability, the rest divided by 1 - probability. x [k B, ...]: k masks for the step's B rows.

    Outside `masks_from` it is torch's own, from the global generator.
    """
    rng = _rng.get()
    if rng is None or not training or probability == 0:
        return F.dropout(x, probability, training)  # noqa: TID251
    rows = len(x) if rng.rows is None else len(rng.rows)
    if len(x) % rows:
        raise ValueError(f"dropout of {len(x)} rows in a step of {rows}: give whole multiples of the batch")
    uniform = torch.cat([rng.uniform(rows, *x.shape[1:]) for _ in range(len(x) // rows)])
    return x * (uniform >= probability).to(x.device) / (1 - probability)


class Dropout(nn.Dropout):  # noqa: TID251
    """`dropout` as a layer."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)
