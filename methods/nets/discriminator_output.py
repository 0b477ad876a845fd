"""The output of the few-step methods' discriminators."""

from typing import NamedTuple

from torch import Tensor


class DiscriminatorOutput(NamedTuple):
    """A discriminator's output for x_s."""

    logits: Tensor  # [B, ...] any number per image; > 0: real
    noisier: Tensor | None = None  # [B, *shape] C: its estimate of the noisier x_t
    clean: Tensor | None = None  # [B, *shape] R: its estimate of x_0


def head_of(estimate: Tensor | None) -> Tensor:
    """The estimate of a head that a loss needs."""
    assert estimate is not None, "this discriminator has no head for this term of its loss"
    return estimate
