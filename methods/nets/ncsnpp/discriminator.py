"""DDGAN's discriminators of pairs (x_i, x_{i+1}) (Xiao et al. 2022, arXiv:2112.07804)

Parameter names and shapes are those of the official code.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.checks import require_choice
from methods.core.shapes import per_channel
from methods.nets.discriminator_output import DiscriminatorOutput
from methods.nets.edm.trunk import add_condition
from methods.nets.embeddings import TimeEmbedding
from methods.nets.fir import fir
from methods.nets.layers import NEAR_ZERO, UNIT_SUM, Conv2d, Linear, xavier_conv, xavier_linear, xavier_uniform
from methods.nets.minibatch_std import with_deviation

Size = Literal["small", "large"]
WIDTHS: dict[Size, tuple[int, ...]] = {"small": (2, 2, 4, 8, 8), "large": (2, 4, 8, 8, 8, 8, 8)}  # in model_channels


class DDGANDiscriminator(nn.Module):
    """A residual encoder of the pair of images, with the deviation over a group of 4 before its last convolution.

    size: "small" halves the images three times (32 pixels), "large" six times (256).
    classes: labels given as input, added to the time's embedding (ours); 0: none.
    """

    def __init__(
        self,
        channels: int,
        *,
        size: Size = "small",
        model_channels: int = 64,
        time_channels: int = 256,
        classes: int = 0,
    ) -> None:
        super().__init__()
        require_choice("size", size, Size)
        widths = [mult * model_channels for mult in WIDTHS[size]]
        self.classes = classes
        first, second = (xavier_linear(time_channels, time_channels) for _ in range(2))
        self.t_embed = TimeEmbedding(time_channels, nn.Sequential(first, nn.LeakyReLU(0.2), second))
        self.label_emb = Linear(classes, time_channels, bias=None) if classes else None
        self.start_conv = xavier_conv(2 * channels, widths[0], kernel=1)
        self.depth = len(widths) - 1
        for i in range(self.depth):
            halves = i > 0 or size == "large"
            self.add_module(f"conv{i + 1}", DownBlock(widths[i], widths[i + 1], time_channels, halves))
        last = NEAR_ZERO if size == "small" else xavier_uniform
        self.final_conv = xavier_conv(widths[-1] + 1, widths[-1], last)
        self.end_linear = xavier_linear(widths[-1], 1)

    def forward(self, x_s: Tensor, index: Tensor, x_t: Tensor, labels: Tensor | None = None) -> DiscriminatorOutput:
        """x_s, x_t: x_i and x_{i+1} [B, C, H, W]; index [B]: i, or any time; labels [B] int or None -> logits [B]."""
        time = self.t_embed(index.to(self.end_linear.weight.dtype))
        time = _act(add_condition(time, self.label_emb, labels, "labels", gain=math.sqrt(self.classes)))
        h = self.start_conv(torch.cat([x_s, x_t], dim=1))
        for i in range(self.depth):
            h = self.get_submodule(f"conv{i + 1}")(h, time)
        h = _act(self.final_conv(with_deviation(h)))
        return DiscriminatorOutput(self.end_linear(h.sum(dim=(2, 3))).squeeze(1))


class DownBlock(nn.Module):
    """x [B, inputs, H, W], time [B, T] -> [B, outputs, H, W], or half the size."""

    def __init__(self, inputs: int, outputs: int, time_channels: int, halves: bool) -> None:
        super().__init__()
        self.fir = fir("down") if halves else nn.Identity()
        self.conv1 = nn.Sequential(xavier_conv(inputs, outputs))
        self.conv2 = nn.Sequential(xavier_conv(outputs, outputs, NEAR_ZERO))
        self.dense_t1 = xavier_linear(time_channels, outputs)
        self.skip = nn.Sequential(Conv2d(inputs, outputs, 1, weight=xavier_uniform, bias=None))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(_act(x))
        h = _act(h + per_channel(self.dense_t1(time).to(h.dtype), h))
        return (self.conv2(self.fir(h)) + self.skip(self.fir(x))) * UNIT_SUM


def _act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)
