"""Blocks of DDGAN's generator: NCSN++'s, with norms modulated by the latent (Xiao et al. 2022, arXiv:2112.07804).

Parameter names are those of the released checkpoints.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.dropout import dropout
from methods.core.shapes import per_channel
from methods.nets.fir import fir
from methods.nets.layers import (
    EPS,
    NEAR_ZERO,
    UNIT_SUM,
    Draw,
    Linear,
    attend,
    group_norm,
    groups_of,
    scaled,
    xavier_conv,
    xavier_linear,
    xavier_uniform,
    zeros,
)

NormAfter = Literal["adaptive", "plain"]


@dataclass(frozen=True)
class BlockStyle:
    """What all blocks of one network have in common."""

    time_channels: int
    style_channels: int
    dropout: float
    taps: tuple[int, ...]
    norm_after: NormAfter  # the second normalisation: by the latent too (BigGAN), or ordinary


class PixelNorm(nn.Module):
    """z [B, N] over the root of its mean square."""

    def forward(self, z: Tensor) -> Tensor:
        return z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def ones_then_zeros(shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return torch.cat([torch.ones(shape[0] // 2), torch.zeros(shape[0] // 2)])


class AdaptiveGroupNorm(nn.Module):
    """x [B, C, H, W] normalised, then scaled and shifted by linear functions of the style [B, S]."""

    def __init__(self, channels: int, style_channels: int) -> None:
        super().__init__()
        self.groups = groups_of(channels)
        self.style = Linear(style_channels, 2 * channels, weight=xavier_uniform, bias=ones_then_zeros)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = per_channel(self.style(style).to(x.dtype), x).chunk(2, dim=1)
        wide = torch.promote_types(x.dtype, torch.float32)
        normal = F.group_norm(x.to(wide), self.groups, eps=EPS).to(x.dtype)
        return torch.addcmul(shift, scale, normal)


class Nin(nn.Module):
    """The same linear map at every pixel: [B, C, H, W] -> [B, C, H W]."""

    def __init__(self, channels: int, weight: Draw) -> None:
        super().__init__()
        self.W = nn.Parameter(weight((channels, channels), channels, channels))  # [inputs, outputs]
        self.b = nn.Parameter(zeros((channels,), channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x.flatten(2), self.W.to(x.dtype).mT.unsqueeze(2), self.b.to(x.dtype))


class AttentionBlock(nn.Module):
    """x [B, C, H, W] and its self-attention over pixels, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels, EPS)
        small = scaled(xavier_uniform, math.sqrt(0.1))
        self.NIN_0, self.NIN_1, self.NIN_2 = (Nin(channels, small) for _ in range(3))
        self.NIN_3 = Nin(channels, NEAR_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = (layer(h).unsqueeze(1) for layer in (self.NIN_0, self.NIN_1, self.NIN_2))
        return (x + self.NIN_3(attend(q, k, v).squeeze(1)).reshape(x.shape)) * UNIT_SUM


class ResBlock(nn.Module):
    """x [B, inputs, H, W], time [B, T] (activated), style [B, S] -> [B, outputs, H, W], 2H or H/2."""

    def __init__(
        self, inputs: int, outputs: int, style: BlockStyle, resample: Literal["up", "down"] | None = None
    ) -> None:
        super().__init__()
        self.dropout = style.dropout
        self.GroupNorm_0 = AdaptiveGroupNorm(inputs, style.style_channels)
        self.fir = nn.Identity() if resample is None else fir(resample, style.taps)
        self.Conv_0 = xavier_conv(inputs, outputs)
        self.Dense_0 = xavier_linear(style.time_channels, outputs)
        adaptive = style.norm_after == "adaptive"
        self.GroupNorm_1 = AdaptiveGroupNorm(outputs, style.style_channels) if adaptive else group_norm(outputs, EPS)
        self.Conv_1 = xavier_conv(outputs, outputs, NEAR_ZERO)
        if inputs != outputs or resample is not None:
            self.Conv_2 = xavier_conv(inputs, outputs, kernel=1)
        else:
            self.Conv_2 = nn.Identity()

    def forward(self, x: Tensor, time: Tensor, style: Tensor) -> Tensor:
        h = self.Conv_0(self.fir(F.silu(self.GroupNorm_0(x, style))))
        h = h + per_channel(self.Dense_0(time).to(h.dtype), h)
        norm = self.GroupNorm_1
        h = F.silu(norm(h, style) if isinstance(norm, AdaptiveGroupNorm) else norm(h))
        h = self.Conv_1(dropout(h, self.dropout, self.training))
        return (self.Conv_2(self.fir(x)) + h) * UNIT_SUM


class Combine(nn.Module):
    """The image [B, inputs, H, W], brought to the features' width by a 1x1 convolution and added to them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.Conv_0 = xavier_conv(inputs, outputs, kernel=1)

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        return self.Conv_0(image) + features
