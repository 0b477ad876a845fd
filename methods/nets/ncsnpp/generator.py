"""DDGAN's generator: NCSN++ with a latent (Xiao et al. 2022, arXiv:2112.07804; Song et al. 2021, arXiv:2011.13456).

Parameter names and shapes are those of the released checkpoints, which number all layers in the order of their use.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.checks import require_choice
from methods.nets.edm.trunk import add_condition
from methods.nets.embeddings import sinusoids
from methods.nets.fir import TAPS, FirConv, fir
from methods.nets.layers import EPS, NEAR_ZERO, UNIT_SUM, Linear, group_norm, xavier_conv, xavier_linear
from methods.nets.ncsnpp.blocks import AttentionBlock, BlockStyle, Combine, NormAfter, PixelNorm, ResBlock
from methods.nets.shapes import require_halvings, square_size

Pyramid = Literal["none", "skip", "residual"]


class NCSNppGenerator(nn.Module):
    """Generates an image from a noisy one, the index of the step, and a latent.

    shape: of an image (C, H, W), H = W; halved len(channel_mult) - 1 times. attn_resolutions count in the same pixels.
    latent: length of z; style_channels, mapping_layers: width and hidden layers of its mapping.
    image_in, image_out: how every level reads the input and contributes to the output. "skip": through a filter and a
    convolution to the features' width, or to the image's; "residual": as the features, resampled with a convolution.
    classes: labels given as input, added to the time's embedding (ours); 0: none.
    tanh: the output is in (-1, 1).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        latent: int = 100,
        model_channels: int = 128,
        channel_mult: tuple[int, ...] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: tuple[int, ...] = (16,),
        dropout: float = 0.0,
        style_channels: int = 256,
        mapping_layers: int = 4,
        norm_after: NormAfter = "adaptive",
        image_in: Pyramid = "residual",
        image_out: Pyramid = "none",
        taps: tuple[int, ...] = TAPS,
        classes: int = 0,
        tanh: bool = True,
    ) -> None:
        super().__init__()
        require_choice("norm_after", norm_after, NormAfter)
        require_choice("image_in", image_in, Pyramid)
        require_choice("image_out", image_out, Pyramid)
        channels, height = shape[0], square_size(shape, "ncsnpp")
        require_halvings(height, len(channel_mult) - 1)
        self.shape, self.image_in, self.image_out, self.tanh = tuple(shape), image_in, image_out, tanh
        self.model_channels, self.num_res_blocks = model_channels, num_res_blocks
        self.taps, self.classes = taps, classes
        self.widths = [model_channels * mult for mult in channel_mult]
        self.attends = [height >> level in attn_resolutions for level in range(len(channel_mult))]
        self.style = BlockStyle(4 * model_channels, style_channels, dropout, taps, norm_after)
        self.pyramid_down, self.pyramid_up = fir("down", taps), fir("up", taps)
        self.z_transform = _mapping(latent, style_channels, mapping_layers)
        self.label_emb = Linear(classes, self.style.time_channels, bias=None) if classes else None
        self.all_modules = nn.ModuleList(self._layers(channels))

    def forward(self, x: Tensor, index: Tensor, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], index [B] or any time, z [B, latent], labels [B] int or None -> [B, C, H, W]."""
        layers = iter(self.all_modules)
        first, second = next(layers), next(layers)
        time = second(F.silu(first(sinusoids(index.to(self.dtype), self.model_channels))))
        time = F.silu(add_condition(time, self.label_emb, labels, "labels", gain=math.sqrt(self.classes)))
        style = self.z_transform(z)
        skips = self._down(layers, x, time, style)
        before, attention, after = (next(layers) for _ in range(3))
        h = after(attention(before(skips[-1], time, style)), time, style)
        image = self._up(layers, h, skips, time, style)
        return image.tanh() if self.tanh else image

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, in which times are embedded."""
        return next(self.all_modules.parameters()).dtype

    def _layers(self, channels: int) -> Iterator[nn.Module]:
        """All layers, in the order of their use."""
        skips: list[int] = []
        yield xavier_linear(self.model_channels, self.style.time_channels)
        yield xavier_linear(self.style.time_channels, self.style.time_channels)
        yield from self._layers_down(channels, skips)
        yield ResBlock(self.widths[-1], self.widths[-1], self.style)
        yield AttentionBlock(self.widths[-1])
        yield ResBlock(self.widths[-1], self.widths[-1], self.style)
        yield from self._layers_up(channels, skips)

    def _layers_down(self, channels: int, skips: list[int]) -> Iterator[nn.Module]:
        """Appends to `skips` the channels of each output that `_layers_up` concatenates."""
        width = self.model_channels
        yield xavier_conv(channels, width)
        skips.append(width)
        for level, wide in enumerate(self.widths):
            for _ in range(self.num_res_blocks):
                yield ResBlock(width, wide, self.style)
                if self.attends[level]:
                    yield AttentionBlock(wide)
                width = wide
                skips.append(width)
            if level < len(self.widths) - 1:
                yield ResBlock(width, width, self.style, "down")
                if self.image_in == "skip":
                    yield Combine(channels, width)
                elif self.image_in == "residual":
                    yield _resampled(channels, width, "down", self.taps)
                    channels = width
                skips.append(width)

    def _down(self, layers: Iterator[nn.Module], x: Tensor, time: Tensor, style: Tensor) -> list[Tensor]:
        image, skips = x, [next(layers)(x)]
        for level in range(len(self.widths)):
            for _ in range(self.num_res_blocks):
                h = next(layers)(skips[-1], time, style)
                skips.append(next(layers)(h) if self.attends[level] else h)
            if level < len(self.widths) - 1:
                h = next(layers)(skips[-1], time, style)
                if self.image_in == "skip":
                    image = self.pyramid_down(image)
                    h = next(layers)(image, h)
                elif self.image_in == "residual":
                    h = image = (next(layers)(image) + h) * UNIT_SUM
                skips.append(h)
        return skips

    def _layers_up(self, channels: int, skips: list[int]) -> Iterator[nn.Module]:
        width = self.widths[-1]
        for level, wide in reversed(list(enumerate(self.widths))):
            for _ in range(self.num_res_blocks + 1):
                yield ResBlock(width + skips.pop(), wide, self.style)
                width = wide
            if self.attends[level]:
                yield AttentionBlock(width)
            coarsest = level == len(self.widths) - 1
            if self.image_out == "skip":
                yield from (group_norm(width, EPS), xavier_conv(width, channels, NEAR_ZERO))
            elif self.image_out == "residual" and coarsest:
                yield from (group_norm(width, EPS), xavier_conv(width, width))
            elif self.image_out == "residual":
                yield _resampled(self.widths[level + 1], width, "up", self.taps)
            if level > 0:
                yield ResBlock(width, width, self.style, "up")
        if self.image_out != "skip":
            yield from (group_norm(width, EPS), xavier_conv(width, channels, NEAR_ZERO))

    def _up(self, layers: Iterator[nn.Module], h: Tensor, skips: list[Tensor], time: Tensor, style: Tensor) -> Tensor:
        image = h
        for level in reversed(range(len(self.widths))):
            for _ in range(self.num_res_blocks + 1):
                h = next(layers)(torch.cat([h, skips.pop()], dim=1), time, style)
            if self.attends[level]:
                h = next(layers)(h)
            coarsest = level == len(self.widths) - 1
            if self.image_out == "skip":
                level_image = _projected(layers, h)
                image = level_image if coarsest else self.pyramid_up(image) + level_image
            elif self.image_out == "residual" and coarsest:
                image = _projected(layers, h)
            elif self.image_out == "residual":
                h = image = (next(layers)(image) + h) * UNIT_SUM
            if level > 0:
                h = next(layers)(h, time, style)
        return image if self.image_out == "skip" else _projected(layers, h)


def _projected(layers: Iterator[nn.Module], h: Tensor) -> Tensor:
    """Through a normalisation, an activation and a convolution."""
    normal = F.silu(next(layers)(h))
    return next(layers)(normal)


def _resampled(inputs: int, outputs: int, direction: Literal["up", "down"], taps: tuple[int, ...]) -> nn.Sequential:
    """`FirConv` under the name it has in checkpoints."""
    return nn.Sequential(OrderedDict(Conv2d_0=FirConv(inputs, outputs, direction, taps)))


def _mapping(latent: int, width: int, hidden: int) -> nn.Sequential:
    layers: list[nn.Module] = [PixelNorm(), xavier_linear(latent, width), nn.SiLU()]
    for _ in range(hidden):
        layers += [xavier_linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers)
