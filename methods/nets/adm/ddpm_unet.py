"""The U-Net of DDPM (Ho et al. 2020, arXiv:2006.11239) as TDPM trains it (Zheng et al. 2023, arXiv:2202.09671).

Parameter names and shapes are those of the official code of DDIM and TDPM.
"""

import math
from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.dropout import dropout
from methods.core.shapes import per_channel
from methods.nets.adm.blocks import GROUPS, Upsample
from methods.nets.adm.trunk import levels
from methods.nets.edm.trunk import add_condition
from methods.nets.embeddings import sinusoids
from methods.nets.layers import EPS, Conv2d, GroupNorm, Linear, attend


class DDPMUNet(nn.Module):
    """A U-Net over images, conditioned on time; one time may serve a whole batch (TDPM's prior).

    shape: of an image (C, H, W), H = W; halved len(channel_mult) - 1 times. attn_resolutions count in the same pixels.
    classes: labels given as input, added to the time's embedding (ours); 0: none.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        out_channels: int | None = None,
        model_channels: int = 128,
        channel_mult: tuple[float, ...] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: tuple[int, ...] = (16,),
        dropout: float = 0.1,
        classes: int = 0,
    ) -> None:
        super().__init__()
        channels, size, _ = shape
        widths, attends = levels(size, model_channels, channel_mult, attn_resolutions)
        if any(width % GROUPS for width in (model_channels, *widths)):
            raise ValueError(f"levels of {widths} channels: multiples of {GROUPS} were wanted")
        self.shape, self.model_channels, self.classes = tuple(shape), model_channels, classes
        emb_channels = 4 * model_channels
        first, second = Linear(model_channels, emb_channels), Linear(emb_channels, emb_channels)
        dense = nn.Sequential(OrderedDict({"0": first, "silu": nn.SiLU(), "1": second}))  # the official code's names
        self.temb = nn.Sequential(OrderedDict(dense=dense))
        self.label_emb = Linear(classes, emb_channels, bias=None) if classes else None
        self.conv_in = Conv2d(channels, model_channels, 3)
        down, up, skips = [], [], [model_channels]
        for level, width in enumerate(widths):
            inputs = [skips[-1], *[width] * (num_res_blocks - 1)]
            halves = level < len(widths) - 1
            down.append(Level(inputs, width, emb_channels, dropout, attends[level], "down" if halves else None))
            skips += [width] * (num_res_blocks + halves)
        self.down = nn.ModuleList(down)
        middle = widths[-1], widths[-1], emb_channels, dropout
        self.mid = nn.ModuleDict(
            {"block_1": ResBlock(*middle), "attn_1": Attention(widths[-1]), "block_2": ResBlock(*middle)}
        )
        for level, width in reversed(list(enumerate(widths))):
            below = widths[min(level + 1, len(widths) - 1)]
            inputs = [h + skips.pop() for h in (below, *[width] * num_res_blocks)]
            up.append(Level(inputs, width, emb_channels, dropout, attends[level], "up" if level > 0 else None))
        self.up = nn.ModuleList(reversed(up))
        self.norm_out = _norm(widths[0])
        self.conv_out = Conv2d(widths[0], out_channels or channels, 3)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], time [B] or [1] (a step's index), labels [B] int or None -> [B, out_channels, H, W]."""
        emb = self.temb(sinusoids(time.to(self.conv_in.weight.dtype), self.model_channels))
        emb = F.silu(add_condition(emb, self.label_emb, labels, "labels", gain=math.sqrt(self.classes)))
        skips = [self.conv_in(x)]
        for level in self.down:
            assert isinstance(level, Level)
            skips += level.descend(skips[-1], emb)
        h = self.mid["attn_1"](self.mid["block_1"](skips[-1], emb))
        h = self.mid["block_2"](h, emb)
        for level in reversed(self.up):
            assert isinstance(level, Level)
            h = level.ascend(h, skips, emb)
        return self.conv_out(F.silu(self.norm_out(h)))


class Level(nn.Module):
    """A residual block for each of `inputs` channels, attention after each if it `attends`; then another size."""

    def __init__(
        self,
        inputs: list[int],
        width: int,
        emb_channels: int,
        dropout: float,
        attends: bool,
        resample: Literal["up", "down"] | None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(channels, width, emb_channels, dropout) for channels in inputs)
        self.attn = nn.ModuleList(Attention(width) if attends else nn.Identity() for _ in inputs)
        self.downsample = Downsample(width) if resample == "down" else None
        self.upsample = Upsample(width, with_conv=True) if resample == "up" else None

    def descend(self, h: Tensor, emb: Tensor) -> list[Tensor]:
        """The outputs that `ascend` concatenates, in order."""
        outputs = []
        for block, attention in zip(self.block, self.attn):
            h = attention(block(h, emb))
            outputs.append(h)
        return outputs if self.downsample is None else [*outputs, self.downsample(h)]

    def ascend(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        for block, attention in zip(self.block, self.attn):
            h = attention(block(torch.cat([h, skips.pop()], dim=1), emb))
        return h if self.upsample is None else self.upsample(h)


class ResBlock(nn.Module):
    """x [B, inputs, H, W], emb [B or 1, E] (activated) -> [B, outputs, H, W]."""

    def __init__(self, inputs: int, outputs: int, emb_channels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1 = _norm(inputs)
        self.conv1 = Conv2d(inputs, outputs, 3)
        self.temb_proj = Linear(emb_channels, outputs)
        self.norm2 = _norm(outputs)
        self.conv2 = Conv2d(outputs, outputs, 3)
        self.nin_shortcut = nn.Identity() if inputs == outputs else Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + per_channel(self.temb_proj(emb).to(h.dtype), h)
        h = self.conv2(dropout(F.silu(self.norm2(h)), self.dropout, self.training))
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """x [B, C, H, W] plus its self-attention over pixels, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).unsqueeze(1) for layer in (self.q, self.k, self.v))
        return x + self.proj_out(attend(q, k, v).reshape(x.shape))


class Downsample(nn.Module):
    """[B, C, H, W] -> [B, C, H/2, W/2]; padded to the right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        assert bias is not None
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight.to(x.dtype), bias.to(x.dtype), stride=2)


def _norm(channels: int) -> GroupNorm:
    return GroupNorm(GROUPS, channels, EPS)
