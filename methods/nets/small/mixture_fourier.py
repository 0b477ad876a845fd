"""Networks for points of the plane that separate 25 modes within a minute of CPU time. Ours, not SIDDM's.

As `mixture_mlp`, with sines of the coordinates, whose initial weights are three times as large as the others', and
residual hidden layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.nets.discriminator_output import DiscriminatorOutput
from methods.nets.small.layers import CastLinear, first_layer, scale_weights
from methods.nets.small.mixture_mlp import TIME_WIDTH, time_embedding

OCTAVES = 5  # frequencies 1, 2, 4, 8, 16
COORDINATE_GAIN = 3.0


class Coordinates(nn.Module):
    """x [B, D] -> [B, `width`]: x, then sines and cosines of x / std at each frequency."""

    def __init__(self, dims: int, std: float) -> None:
        super().__init__()
        self.std, self.width = std, dims * (1 + 2 * OCTAVES)

    def forward(self, x: Tensor) -> Tensor:
        frequencies = 2 ** torch.arange(OCTAVES, device=x.device)
        phases = (x[:, None] / self.std * frequencies[:, None].to(x)).flatten(1)
        return torch.cat([x, phases.sin(), phases.cos()], dim=1)


class ResidualLayers(nn.Module):
    """[B, inputs] -> [B, hidden] after `depth` layers, all but the first residual. `scaled`: the initial weights of
    so many first inputs are multiplied by COORDINATE_GAIN."""

    def __init__(self, inputs: int, hidden: int, depth: int, scaled: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.hidden = nn.ModuleList(CastLinear(hidden, hidden, hidden=True) for _ in range(depth - 1))
        scale_weights(self.first, slice(scaled), COORDINATE_GAIN)

    def forward(self, *parts: Tensor) -> Tensor:
        """parts: the inputs, concatenated; the rows of a shorter part repeat cyclically."""
        h = F.silu(first_layer(self.first, *parts))
        for layer in self.hidden:
            h = h.to(next(layer.parameters()).dtype)
            h = h + F.silu(layer(h))
        return h


class FourierGenerator(nn.Module):
    """(x [B, D], time [B] or fewer that repeat cyclically, z [B, latent]) -> [B, D]. std: of the data, in which
    coordinates are measured."""

    def __init__(self, dims: int, latent: int, std: float, *, hidden: int = 100, depth: int = 3) -> None:
        super().__init__()
        self.shape = (dims,)
        self.coordinates = Coordinates(dims, std)
        self.t_embed = time_embedding(TIME_WIDTH)
        seen = self.coordinates.width
        self.decode = ResidualLayers(seen + TIME_WIDTH + latent, hidden, depth, scaled=seen)
        self.said = CastLinear(hidden, dims)
        self.out = nn.Linear(2 * dims, dims)

    def forward(self, x: Tensor, time: Tensor, z: Tensor) -> Tensor:
        h = self.decode(self.coordinates(x), self.t_embed(time.to(x)), z)
        return self.out(torch.cat([self.said(h), x], dim=1))


class FourierDiscriminator(nn.Module):
    """(x_s [B, D], time [B] or fewer that repeat cyclically, with `pair` x_t [B, D]) -> two logits per point,
    trained to one label."""

    def __init__(
        self,
        dims: int,
        std: float,
        *,
        pair: bool = False,
        heads: bool = False,
        hidden: int = 100,
        depth: int = 4,
    ) -> None:
        super().__init__()
        self.coordinates = Coordinates(dims, std)
        self.t_embed = time_embedding(TIME_WIDTH)
        seen = (1 + pair) * self.coordinates.width
        self.encode = ResidualLayers(seen + TIME_WIDTH, hidden, depth, scaled=seen)
        self.logits = CastLinear(hidden, 2)
        self.noisier = CastLinear(hidden, dims) if heads else None
        self.clean = CastLinear(hidden, dims) if heads else None

    def forward(self, x_s: Tensor, time: Tensor, x_t: Tensor | None = None) -> DiscriminatorOutput:
        seen = [self.coordinates(x) for x in (x_s, x_t) if x is not None]
        h = self.encode(*seen, self.t_embed(time.to(x_s)))
        return DiscriminatorOutput(
            self.logits(h), *(None if head is None else head(h) for head in (self.noisier, self.clean))
        )
