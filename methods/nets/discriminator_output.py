"""What the few-step methods' discriminators answer, whatever they are made of."""

from typing import NamedTuple

from torch import Tensor


class Verdict(NamedTuple):
    """What a discriminator says of x_s."""

    logits: Tensor  # [B, ...] any number per image; > 0: real
    noisier: Tensor | None = None  # [B, *shape] C: its guess of x_t, the noisier neighbour
    clean: Tensor | None = None  # [B, *shape] R: its guess of x_0
