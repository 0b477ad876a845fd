"""Residual fully connected generators and discriminators for tiny images, as the few-step methods use on digits. Ours.

`time` may be any number that differs between steps: their index, or 1000 times a continuous time.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.nets.discriminator_output import DiscriminatorOutput
from methods.nets.layers import Linear
from methods.nets.minibatch_std import with_deviation
from methods.nets.small.mlp import Conditioning, FilmBlock


class FilmGenerator(nn.Module):
    """(x_t, time, z) -> the image; z is concatenated to the embedding of time and class that modulates every block.

    Images stay within (-1, 1), as NCSN++'s do: else DDGAN's discriminator detects real digits by saturated pixels
    (1,000 steps, 1 seed: precision in pixels 0.73 against 0.28). Points may lie anywhere.
    shape: of one point (D,) or image (C, H, W). latent: length of z. classes: 0: unconditional.
    """

    def __init__(self, shape: tuple[int, ...], *, latent: int, classes: int = 0, width: int, blocks: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.condition = Conditioning(width, classes)
        self.first = Linear(math.prod(shape), width)
        self.blocks = nn.ModuleList(FilmBlock(width, width + latent) for _ in range(blocks))
        self.last = Linear(width, math.prod(shape))

    def forward(self, x: Tensor, time: Tensor, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """x, output: [B, *shape]; time [B]; z [B, latent]; labels [B] int."""
        emb = torch.cat([self.condition(time, labels), z], dim=1)
        h = self.first(x.flatten(1))
        for block in self.blocks:
            h = block(h, emb)
        return within_range(self.last(F.silu(h)).reshape(x.shape))


def within_range(x: Tensor) -> Tensor:
    """Images [B, C, H, W] into (-1, 1); points [B, D] as they are."""
    return x.tanh() if x.ndim == 4 else x


class FilmDiscriminator(nn.Module):
    """Discriminator of x_s, or with `pair` of (x_s, x_t); the deviation over a group of 4 is one of its features.

    heads: also estimates of x_t and x_0, from features of each image alone.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        pair: bool = False,
        heads: bool = False,
        classes: int = 0,
        width: int,
        blocks: int,
    ) -> None:
        super().__init__()
        values = math.prod(shape)
        self.condition = Conditioning(width, classes)
        self.first = Linear((1 + pair) * values, width)
        self.blocks = nn.ModuleList(FilmBlock(width, width) for _ in range(blocks))
        self.mixed = Linear(width + 1, width)
        self.logit = Linear(width, 1)
        self.noisier = Linear(width, values) if heads else None
        self.clean = Linear(width, values) if heads else None

    def forward(
        self, x_s: Tensor, time: Tensor, x_t: Tensor | None = None, labels: Tensor | None = None
    ) -> DiscriminatorOutput:
        """x_s, x_t [B, *shape]; time [B]; labels [B] int -> logits [B, 1], estimates [B, *shape]."""
        emb = self.condition(time, labels)
        h = self.first(torch.cat([x.flatten(1) for x in (x_s, x_t) if x is not None], dim=1))
        for block in self.blocks:
            h = block(h, emb)
        h = F.silu(h)
        beside = with_deviation(h[:, :, None, None]).flatten(1)
        estimates = (None if head is None else head(h).reshape(x_s.shape) for head in (self.noisier, self.clean))
        return DiscriminatorOutput(self.logit(F.silu(self.mixed(beside))), *estimates)


class StateDiscriminator(nn.Module):
    """`FilmDiscriminator` of states at one and the same time: x [B, *shape], labels [B] int -> logits [B, 1]."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, blocks: int) -> None:
        super().__init__()
        # `judge` is the name in saved state dictionaries
        self.judge = FilmDiscriminator(shape, classes=classes, width=width, blocks=blocks)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.judge(x, x.new_zeros(len(x)), None, labels).logits
