"""StyleGAN2's residual discriminator (Karras et al. 2020, arXiv:1912.04958), as TDPM uses it (arXiv:2202.09671).

Equalised learning rate: weights are stored of unit variance and scaled when used, so that an optimiser's step has
the same relative size in every layer; hence a rate of 2.5e-3, too large for ordinary networks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.nets.fir import TAPS, conv_down
from methods.nets.layers import UNIT_SUM, zeros
from methods.nets.minibatch_std import with_deviation
from methods.nets.resample import Resampling

SMALLEST_SIZE = 4  # pixels per side of the last features
GAIN = math.sqrt(2)  # keeps the variance through a leaky rectifier


class StyleGAN2Discriminator(nn.Module):
    """Images [B, channels, size, size] -> logits [B, 1]; size a power of two from 8.

    A level of s pixels has min(channel_base / s, channel_max) channels.
    """

    def __init__(self, size: int, channels: int, *, channel_base: int = 16384, channel_max: int = 512) -> None:
        super().__init__()
        if size < 2 * SMALLEST_SIZE or size & (size - 1):
            raise ValueError(f"images of {size} pixels per side: a power of two from {2 * SMALLEST_SIZE} was wanted")
        self.sizes = [size >> level for level in range((size // SMALLEST_SIZE).bit_length() - 1)]
        widths = {s: min(channel_base // s, channel_max) for s in (*self.sizes, SMALLEST_SIZE)}
        for s in self.sizes:
            image = channels if s == size else None
            self.add_module(f"b{s}", Block(widths[s], widths[s // 2], image))
        self.add_module(f"b{SMALLEST_SIZE}", Epilogue(widths[SMALLEST_SIZE]))

    def forward(self, x: Tensor) -> Tensor:
        for s in (*self.sizes, SMALLEST_SIZE):
            x = self.get_submodule(f"b{s}")(x)
        return x


class Block(nn.Module):
    """[B, inputs, H, W] -> [B, outputs, H/2, W/2]; the first block takes an image of `image` channels."""

    def __init__(self, inputs: int, outputs: int, image: int | None) -> None:
        super().__init__()
        self.fromrgb = None if image is None else EqualConv(image, inputs, 1)
        self.conv0 = EqualConv(inputs, inputs, 3)
        self.conv1 = EqualConv(inputs, outputs, 3, halves=True, gain=UNIT_SUM)
        self.skip = EqualConv(inputs, outputs, 1, halves=True, gain=UNIT_SUM, bias=False, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.fromrgb is not None:
            x = self.fromrgb(x)
        return self.skip(x) + self.conv1(self.conv0(x))


class Epilogue(nn.Module):
    """[B, channels, 4, 4] -> [B, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = EqualConv(channels + 1, channels, 3)
        self.fc = EqualLinear(channels * SMALLEST_SIZE**2, channels, activation=True)
        self.out = EqualLinear(channels, 1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(self.conv(with_deviation(x)).flatten(1)))


class EqualConv(nn.Module):
    """A convolution, smoothed and at every second pixel if it `halves`; `gain` is of the whole."""

    kernel: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        *,
        halves: bool = False,
        gain: float = 1.0,
        bias: bool = True,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.halves, self.activation, self.gain, self.scale = halves, activation, gain, (inputs * width**2) ** -0.5
        self.weight = nn.Parameter(torch.randn(outputs, inputs, width, width))
        self.bias = nn.Parameter(zeros((outputs,), inputs, outputs)) if bias else None
        if halves:
            self.register_buffer("kernel", Resampling("down", TAPS).kernel(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight * self.scale).to(x.dtype)
        x = conv_down(x, weight, self.kernel) if self.halves else F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.bias is not None:
            x = x + self.bias.to(x.dtype).reshape(-1, 1, 1)
        return F.leaky_relu(x, 0.2) * (GAIN * self.gain) if self.activation else x * self.gain


class EqualLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, activation: bool) -> None:
        super().__init__()
        self.activation, self.scale = activation, inputs**-0.5
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(zeros((outputs,), inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, (self.weight * self.scale).to(x.dtype), self.bias.to(x.dtype))
        return F.leaky_relu(x, 0.2) * GAIN if self.activation else x
