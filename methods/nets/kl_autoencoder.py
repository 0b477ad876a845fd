"""The autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752).

Its parameters have the names of diffusers' AutoencoderKL: those of published autoencoders load as they are.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from methods.nets.layers import EPS, Conv2d, GroupNorm, Linear, attend

LOG_VARIANCE = (-30.0, 20.0)  # bounds


class Posterior(NamedTuple):
    """A Gaussian for each latent number: [B, C, h, w]."""

    mean: Tensor
    std: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, moments: Tensor) -> "Posterior":
        """moments: [B, 2 C, h, w], means and then logs of variances."""
        mean, log_variance = moments.chunk(2, 1)
        log_variance = log_variance.clamp(*LOG_VARIANCE)
        return cls(mean, (log_variance / 2).exp(), log_variance)

    def at(self, noise: Tensor) -> Tensor:
        """The sample for a standard normal draw of the same shape."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """[B]: the divergence from the standard normal distribution, in nats."""
        terms = self.mean.square() + self.std.square() - 1 - self.log_variance
        return 0.5 * terms.flatten(1).sum(1)


class AutoencoderKL(nn.Module):
    """Images [B, pixel_channels, H, W] to latents [B, latent_channels, h, w] and back, h = H / 2^(resolutions - 1)."""

    def __init__(
        self,
        pixel_channels: int,
        latent_channels: int,
        channels: tuple[int, ...],
        layers: int,
        groups: int,
        attention: bool,
    ) -> None:
        """channels: of each resolution, finest first; layers: residual blocks of each; attention: at the coarsest."""
        super().__init__()
        common = channels, layers, groups, attention
        self.encoder = Encoder(pixel_channels, 2 * latent_channels, *common)
        self.decoder = Decoder(latent_channels, pixel_channels, *common)
        self.quant_conv = Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = Conv2d(latent_channels, latent_channels, 1)

    def encode(self, images: Tensor) -> Posterior:
        return Posterior.of(self.quant_conv(self.encoder(images)))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Posterior]:
        """The reconstruction from a sample of the posterior, and the posterior. noise: shaped as the latents."""
        posterior = self.encode(images)
        return self.decode(posterior.at(noise)), posterior


class Encoder(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, channels: tuple[int, ...], layers: int, groups: int, attention: bool
    ) -> None:
        super().__init__()
        self.conv_in = Conv2d(inputs, channels[0], 3)
        widths = zip((channels[0], *channels), channels)
        levels = [Level(*pair, layers, groups) for pair in widths]
        for level, width in zip(levels[:-1], channels):
            level.downsamplers.append(Downsample(width))
        self.down_blocks = nn.ModuleList(levels)
        self.mid_block = Middle(channels[-1], groups, attention)
        self.conv_norm_out = GroupNorm(groups, channels[-1], EPS)
        self.conv_out = Conv2d(channels[-1], outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, channels: tuple[int, ...], layers: int, groups: int, attention: bool
    ) -> None:
        super().__init__()
        coarse_first = channels[::-1]
        self.conv_in = Conv2d(inputs, coarse_first[0], 3)
        self.mid_block = Middle(coarse_first[0], groups, attention)
        widths = zip((coarse_first[0], *coarse_first), coarse_first)
        levels = [Level(*pair, layers + 1, groups) for pair in widths]
        for level, width in zip(levels[:-1], coarse_first):
            level.upsamplers.append(Upsample(width))
        self.up_blocks = nn.ModuleList(levels)
        self.conv_norm_out = GroupNorm(groups, channels[0], EPS)
        self.conv_out = Conv2d(channels[0], outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Level(nn.Module):
    """Residual blocks at one resolution, the first of which changes the channels; then at most one change of size."""

    def __init__(self, inputs: int, outputs: int, blocks: int, groups: int) -> None:
        super().__init__()
        widths = (inputs, *[outputs] * (blocks - 1))
        self.resnets = nn.ModuleList([ResnetBlock(width, outputs, groups) for width in widths])
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()

    def forward(self, x: Tensor) -> Tensor:
        for part in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = part(x)
        return x


class Middle(nn.Module):
    """Two residual blocks, with attention between them or without."""

    def __init__(self, channels: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, groups) for _ in range(2)])
        self.attentions = nn.ModuleList([Attention(channels, groups)] if attention else [])

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.resnets
        for part in (first, *self.attentions, second):
            x = part(x)
        return x


class ResnetBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, inputs, EPS)
        self.conv1 = Conv2d(inputs, outputs, 3)
        self.norm2 = GroupNorm(groups, outputs, EPS)
        self.conv2 = Conv2d(outputs, outputs, 3)
        self.conv_shortcut = Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        change = self.conv1(F.silu(self.norm1(x)))
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(change)))


class Attention(nn.Module):
    """Over all positions, with one head of all channels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, EPS)
        self.to_q, self.to_k, self.to_v = (Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).mT  # [B, H W, C]
        q, k, v = (layer(tokens).mT[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        attended = self.to_out[0](attend(q, k, v)[:, 0].mT)
        return x + attended.mT.reshape(x.shape)


class Downsample(nn.Module):
    """Half the size; padded at the right and the bottom alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)
        self.conv.padding = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
