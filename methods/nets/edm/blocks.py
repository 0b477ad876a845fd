"""The residual block that both of EDM's U-Nets are built from (Karras et al. 2022, arXiv:2206.00364, appendix F)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.dropout import dropout
from methods.core.shapes import per_channel
from methods.nets.layers import Conv2d, Draw, Linear, attend, group_norm, torch_uniform, zeros
from methods.nets.resample import Resample, Resampling


@dataclass(frozen=True)
class BlockStyle:
    """Settings shared by all blocks of one network."""

    emb_channels: int
    dropout: float
    heads: Callable[[int], int] = lambda channels: 0  # of an attention layer on that many channels
    eps: float = 1e-5  # of the normalisations
    skip_scale: float = 1.0  # of every residual sum
    adaptive_scale: bool = True  # the embedding scales and shifts, or only shifts
    resample_proj: bool = False  # a 1x1 convolution on the skip of every resampling block
    taps: tuple[int, ...] = (1, 1)  # of the resampling filter
    weight: Draw = torch_uniform
    bias: Draw = torch_uniform
    residual_weight: Draw = torch_uniform  # of the last layer of a residual branch, whose bias is zero
    attention_weight: Draw = torch_uniform  # of queries, keys and values


class UNetBlock(nn.Module):
    """Two 3x3 convolutions conditioned on an embedding, a skip, and optional self-attention.

    x [B, in_channels, H, W], emb [B, style.emb_channels] -> [B, out_channels, H, W], doubled or halved by `resample`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: BlockStyle,
        *,
        resample: Literal["up", "down"] | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.dropout, self.skip_scale, self.adaptive_scale = style.dropout, style.skip_scale, style.adaptive_scale
        weight, bias = style.weight, style.bias
        resampling = None if resample is None else Resampling(resample, style.taps)
        self.norm0 = group_norm(in_channels, style.eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, resampling=resampling, weight=weight, bias=bias)
        conditions = out_channels * (2 if style.adaptive_scale else 1)
        self.affine = Linear(style.emb_channels, conditions, weight=weight, bias=bias)
        self.norm1 = group_norm(out_channels, style.eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, weight=style.residual_weight, bias=zeros)
        self.skip = _skip(in_channels, out_channels, style, resampling)
        self.heads = style.heads(out_channels) if attention else 0
        if self.heads:
            self.norm2 = group_norm(out_channels, style.eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1, weight=style.attention_weight, bias=bias)
            self.proj = Conv2d(out_channels, out_channels, 1, weight=style.residual_weight, bias=zeros)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        y = self.conv0(F.silu(self.norm0(x)))
        conditions = per_channel(self.affine(emb).to(y.dtype), y)
        if self.adaptive_scale:
            scale, shift = conditions.chunk(2, dim=1)
            y = F.silu(torch.addcmul(shift, self.norm1(y), scale + 1))
        else:
            y = F.silu(self.norm1(y + conditions))
        y = self.conv1(dropout(y, self.dropout, self.training))
        y = self._joined(x if self.skip is None else self.skip(x), y)
        return self._joined(y, self.proj(self._attention(y))) if self.heads else y

    def _joined(self, skip: Tensor, branch: Tensor) -> Tensor:
        return (skip + branch) * self.skip_scale

    def _attention(self, x: Tensor) -> Tensor:
        """Channels of `qkv` count heads, then a head's channels, then q, k, v."""
        batch, channels = x.shape[:2]
        q, k, v = self.qkv(self.norm2(x)).reshape(batch, self.heads, channels // self.heads, 3, -1).unbind(3)
        return attend(q, k, v).reshape(x.shape)


def _skip(
    in_channels: int, out_channels: int, style: BlockStyle, resampling: Resampling | None
) -> Conv2d | Resample | None:
    if in_channels != out_channels or (resampling is not None and style.resample_proj):
        return Conv2d(in_channels, out_channels, 1, resampling=resampling, weight=style.weight, bias=style.bias)
    return None if resampling is None else Resample(resampling)
