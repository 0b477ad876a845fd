"""The blocks of ADM's networks (Dhariwal and Nichol 2021, arXiv:2105.05233), with the released parameter names."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.captions import Caption
from methods.core.dropout import Dropout
from methods.core.shapes import per_channel
from methods.nets.layers import Conv1d, Conv2d, GroupNorm, Linear, attend, zeros
from methods.nets.resample import Resample, Resampling
from methods.nets.transformer import CrossAttention

AttentionOrder: TypeAlias = Literal["heads-first", "qkv-first"]
GROUPS = 32  # every width is a multiple


@dataclass(frozen=True, kw_only=True)
class BlockStyle:
    """Settings shared by all blocks of one network; most are rows of the paper's ablation. Defaults: improved DDPM's,
    which also sets use_scale_shift_norm."""

    emb_channels: int
    dropout: float = 0.0
    num_heads: int = 1  # unless num_head_channels is set
    num_head_channels: int | None = None  # width of a head, however many
    use_scale_shift_norm: bool = False  # AdaGN: the embedding scales and shifts, or only shifts
    resblock_updown: bool = False  # resample inside residual blocks (BigGAN)
    conv_resample: bool = True  # or else: with a convolution
    use_new_attention_order: bool = False  # see `split_heads`
    skip_scale: float = 1.0  # of residual sums; sqrt(1/2) is the ablation "rescale residual connections"
    text_width: int = 0  # of the words of captions that attention blocks attend to; 0: none


class StyleOptions(TypedDict, total=False):
    """The fields of `BlockStyle` that a network takes as arguments; any may be left out."""

    dropout: float
    num_heads: int
    num_head_channels: int | None
    use_scale_shift_norm: bool
    resblock_updown: bool
    conv_resample: bool
    use_new_attention_order: bool
    skip_scale: float


def adm_norm(channels: int) -> GroupNorm:
    if channels % GROUPS:
        raise ValueError(f"a layer of {channels} channels: ADM's widths are multiples of {GROUPS}")
    return GroupNorm(GROUPS, channels)


class Stage(nn.ModuleList):
    """Layers in sequence; residual blocks also take the embedding, attention blocks the caption."""

    def forward(self, x: Tensor, emb: Tensor, caption: Caption | None = None) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            else:
                x = layer(x, caption) if isinstance(layer, AttentionBlock) else layer(x)
        return x


class ResBlock(nn.Module):
    """Two 3x3 convolutions conditioned on an embedding: x [B, in, H, W], emb [B, E] -> [B, out, H, W], 2H or H/2.

    resample: nearest-neighbour doubling or 2x2 averaging of both the branch and the skip.
    """

    def __init__(
        self, in_channels: int, out_channels: int, style: BlockStyle, resample: Literal["up", "down"] | None = None
    ) -> None:
        super().__init__()
        self.style = style
        self.resample = nn.Identity() if resample is None else Resample(Resampling(resample), in_checkpoints=False)
        self.in_layers = nn.Sequential(adm_norm(in_channels), nn.SiLU(), Conv2d(in_channels, out_channels, 3))
        conditions = out_channels * (2 if style.use_scale_shift_norm else 1)
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(style.emb_channels, conditions))
        last = Conv2d(out_channels, out_channels, 3, weight=zeros, bias=zeros)
        self.out_layers = nn.Sequential(adm_norm(out_channels), nn.SiLU(), Dropout(style.dropout), last)
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, activation, convolve = self.in_layers
        h = convolve(self.resample(activation(norm(x))))
        conditions = per_channel(self.emb_layers(emb).to(h.dtype), h)
        if self.style.use_scale_shift_norm:
            scale, shift = conditions.chunk(2, dim=1)
            norm, *rest = self.out_layers
            h = norm(h) * (1 + scale) + shift
            for layer in rest:
                h = layer(h)
        else:
            h = self.out_layers(h + conditions)
        return (self.skip_connection(self.resample(x)) + h) * self.style.skip_scale


class Upsample(nn.Module):
    """[B, C, H, W] -> [B, C, 2H, 2W]."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3) if with_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


def resample_layer(channels: int, style: BlockStyle, resample: Literal["up", "down"]) -> nn.Module:
    """The layer between two levels."""
    if style.resblock_updown:
        return ResBlock(channels, channels, style, resample)
    if resample == "up":
        return Upsample(channels, style.conv_resample)
    op = Conv2d(channels, channels, 3, stride=2) if style.conv_resample else nn.AvgPool2d(2)
    return nn.Sequential(OrderedDict(op=op))  # the released name


class AttentionBlock(nn.Module):
    """x [B, C, H, W] plus multi-head self-attention over its pixels, then attention to a caption's words, if any."""

    def __init__(self, channels: int, style: BlockStyle) -> None:
        super().__init__()
        self.heads = head_count(channels, style.num_heads, style.num_head_channels)
        self.heads_first = not style.use_new_attention_order
        self.norm = adm_norm(channels)
        self.qkv = Conv1d(channels, 3 * channels)
        self.proj_out = Conv1d(channels, channels, weight=zeros, bias=zeros)
        text_width = style.text_width
        self.cross_norm = adm_norm(channels) if text_width else None
        self.cross = CrossAttention(channels, text_width, self.heads) if text_width else None

    def forward(self, x: Tensor, caption: Caption | None = None) -> Tensor:
        q, k, v = split_heads(self.qkv(self.norm(x).flatten(2)), self.heads, self.heads_first)
        x = x + self.proj_out(attend(q, k, v).flatten(1, 2)).reshape(x.shape)
        if self.cross is None or self.cross_norm is None or caption is None:
            return x
        return x + self.cross(self.cross_norm(x).flatten(2).mT, caption).mT.reshape(x.shape)


def head_count(channels: int, num_heads: int, num_head_channels: int | None) -> int:
    width = channels / num_heads if num_head_channels is None else num_head_channels
    if channels % width:
        raise ValueError(f"{channels} channels do not divide into attention heads of {width:g}")
    return channels // int(width)


def split_heads(qkv: Tensor, heads: int, heads_first: bool) -> tuple[Tensor, ...]:
    """[B, 3C, L] -> q, k, v, each [B, heads, C / heads, L].

    heads_first: channels count heads, then q, k, v ("legacy"); otherwise q, k, v, then heads ("new order"). Neither
    names nor shapes of weights show the order, and it cannot be exchanged without permuting them.
    """
    shape = (heads, 3) if heads_first else (3, heads)
    return qkv.unflatten(1, (*shape, -1)).unbind(2 if heads_first else 1)
