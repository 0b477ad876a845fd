"""Layers that the networks share.

Precision follows the activations: parameters are cast to their dtype, so a float32 network runs in half precision on
half-precision images, with normalisation still in float32. Each layer draws its own initial weights.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.nets.resample import Resampling

Draw = Callable[[tuple[int, ...], int, int], Tensor]  # (shape, fan_in, fan_out) -> initial values


def zeros(shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return torch.zeros(shape)


def torch_uniform(shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    """U(-1, 1) / sqrt(fan_in): torch's initialisation of convolutions and linear layers, biases included."""
    return torch.empty(shape).uniform_(-1, 1) / math.sqrt(fan_in)


def xavier_uniform(shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return torch.empty(shape).uniform_(-1, 1) * math.sqrt(6 / (fan_in + fan_out))


def kaiming_normal(shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return torch.empty(shape).normal_() / math.sqrt(fan_in)


def scaled(draw: Draw, factor: float) -> Draw:
    return lambda shape, fan_in, fan_out: draw(shape, fan_in, fan_out) * factor


UNIT_SUM = math.sqrt(0.5)  # keeps the variance of a sum of two
EPS = 1e-6  # of the normalisations of DDPM's and NCSN++'s networks
NEAR_ZERO = scaled(xavier_uniform, 1e-5)


class Linear(nn.Module):
    """[..., inputs] -> [..., outputs]; bias None: without one."""

    def __init__(
        self, inputs: int, outputs: int, *, weight: Draw = torch_uniform, bias: Draw | None = torch_uniform
    ) -> None:
        super().__init__()
        self.in_features = inputs
        self.weight = nn.Parameter(weight((outputs, inputs), inputs, outputs))
        self.bias = None if bias is None else nn.Parameter(bias((outputs,), inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class Conv1d(nn.Module):
    """The same linear map at every position: [B, inputs, L] -> [B, outputs, L]."""

    def __init__(self, inputs: int, outputs: int, *, weight: Draw = torch_uniform, bias: Draw = torch_uniform) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight((outputs, inputs, 1), inputs, outputs))
        self.bias = nn.Parameter(bias((outputs,), inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class Conv2d(nn.Module):
    """[B, inputs, H, W] -> [B, outputs, H, W], or half the size with stride 2; `resampling` comes first.

    bias None: without one.
    """

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        resampling: Resampling | None = None,
        weight: Draw = torch_uniform,
        bias: Draw | None = torch_uniform,
    ) -> None:
        super().__init__()
        fans = inputs * kernel**2, outputs * kernel**2
        self.weight = nn.Parameter(weight((outputs, inputs, kernel, kernel), *fans))
        self.bias = None if bias is None else nn.Parameter(bias((outputs,), *fans))
        self.stride, self.padding, self.resampling = stride, kernel // 2, resampling
        if resampling is not None:
            self.register_buffer("resample_filter", resampling.kernel())

    def forward(self, x: Tensor) -> Tensor:
        if self.resampling is not None:
            x = self.resampling.apply(x, self.resample_filter)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv2d(x, self.weight.to(x.dtype), bias, self.stride, self.padding)


def xavier_linear(inputs: int, outputs: int) -> Linear:
    return Linear(inputs, outputs, weight=xavier_uniform, bias=zeros)


def xavier_conv(inputs: int, outputs: int, weight: Draw = xavier_uniform, kernel: int = 3) -> Conv2d:
    return Conv2d(inputs, outputs, kernel, weight=weight, bias=zeros)


class GroupNorm(nn.GroupNorm):
    """Evaluated in float32 where activations are narrower."""

    def forward(self, input: Tensor) -> Tensor:
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        return F.group_norm(wide, self.num_groups, weight, bias, self.eps).to(input.dtype)


def groups_of(channels: int) -> int:
    """At least four channels to a group, 32 groups at most."""
    return min(channels // 4, 32)


def group_norm(channels: int, eps: float) -> GroupNorm:
    """A `GroupNorm` of `groups_of` the channels."""
    return GroupNorm(groups_of(channels), channels, eps)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v over positions; q, k, v, result: [B, heads, d, L].

    First derivatives only, unless run under `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
    """
    q, k, v = (part.mT.contiguous() for part in (q, k, v))  # the layout of the memory-saving kernels
    return F.scaled_dot_product_attention(q, k, v).mT


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Class vectors [B, classes] of labels [B] int; a matrix is returned unchanged."""
    return F.one_hot(labels, classes) if labels.ndim == 1 else labels
