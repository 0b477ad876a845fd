"""Small networks for points of the plane, as SIDDM's simulation on 25 Gaussians uses them (official code's widths)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from methods.nets.discriminator_output import DiscriminatorOutput
from methods.nets.embeddings import TimeEmbedding
from methods.nets.small.layers import CastLinear, first_layer, scale_weights

TIME_WIDTH = 128  # of the embedded time


def time_embedding(width: int) -> TimeEmbedding:
    layers = (nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2))
    return TimeEmbedding(width, nn.Sequential(*layers))


def mlp(inputs: int, outputs: int, hidden: int = 100, depth: int = 3) -> nn.Sequential:
    """`depth` hidden layers with SiLU, then a linear one."""
    widths = [inputs, *[hidden] * depth]
    first, *rest = pairwise(widths)
    layers = [nn.Linear(*first), *(CastLinear(*pair, hidden=True) for pair in rest)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.SiLU())), CastLinear(widths[-1], outputs))


class MixtureGenerator(nn.Module):
    """(x [B, D], time [B] or fewer that repeat cyclically, z [B, latent]) -> [B, D]; latent 0: no z.

    shape: that of one point, (D,). coordinate_gain: factor on the initial weights of its coordinates.
    """

    def __init__(
        self,
        dims: int,
        latent: int = 0,
        *,
        hidden: int = 100,
        depth: int = 3,
        coordinate_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.shape = (dims,)
        self.t_embed = time_embedding(TIME_WIDTH)
        self.decode = mlp(dims + TIME_WIDTH + latent, dims, hidden, depth)
        self.out = nn.Linear(2 * dims, dims)
        scale_weights(self.decode[0], slice(dims), coordinate_gain)

    def forward(self, x: Tensor, time: Tensor, z: Tensor | None = None) -> Tensor:
        parts = x, self.t_embed(time.to(x)), *([] if z is None else [z])
        output = self.decode[1:](first_layer(self.decode[0], *parts))
        return self.out(torch.cat([output, x], 1))


class MixtureDiscriminator(nn.Module):
    """(x_s [B, D], time [B] or fewer that repeat cyclically, x_t [B, D] or None: zeros in its place) -> two logits per
    point, trained to one label."""

    def __init__(
        self,
        dims: int,
        heads: bool = False,
        *,
        hidden: int = 100,
        depth: int = 4,
        coordinate_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.t_embed = time_embedding(TIME_WIDTH)
        self.encode = nn.Sequential(*mlp(2 * dims + TIME_WIDTH, 2, hidden, depth)[:-1])
        self.gan_linear = CastLinear(hidden, 2)
        self.noisier = CastLinear(hidden, dims) if heads else None
        self.clean = CastLinear(hidden, dims) if heads else None
        for coordinates in (slice(dims), slice(-dims, None)):
            scale_weights(self.encode[0], coordinates, coordinate_gain)

    def forward(self, x_s: Tensor, time: Tensor, x_t: Tensor | None = None) -> DiscriminatorOutput:
        seen = torch.zeros_like(x_s) if x_t is None else x_t
        features = self.encode[1:](first_layer(self.encode[0], x_s, self.t_embed(time.to(x_s)), seen))
        if self.noisier is None or self.clean is None:
            return DiscriminatorOutput(self.gan_linear(features))
        return DiscriminatorOutput(self.gan_linear(features), self.noisier(features), self.clean(features))
