"""Twofold resampling of images by a small separable filter, as in the style-based GAN literature."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Resampling:
    """[B, C, H, W] -> [B, C, 2H, 2W] or [B, C, H/2, W/2] by the outer product of `taps` with itself, normalised."""

    direction: Literal["up", "down"]
    taps: tuple[int, ...] = (1, 1)

    @property
    def padding(self) -> int:
        return (len(self.taps) - 1) // 2

    def kernel(self) -> Tensor:
        """[1, 1, n, n], of sum 1."""
        taps = torch.tensor(self.taps, dtype=torch.float32)
        return (taps.outer(taps) / taps.sum() ** 2).reshape(1, 1, len(self.taps), len(self.taps))

    def apply(self, x: Tensor, kernel: Tensor) -> Tensor:
        if self.taps == (1, 1):  # the same numbers without a convolution
            return F.interpolate(x, scale_factor=2.0) if self.direction == "up" else F.avg_pool2d(x, 2)
        if self.direction == "down":
            return filtered(x, kernel, self.padding, stride=2)
        channels = x.shape[1]
        each = (4 * kernel).to(x.dtype).expand(channels, -1, -1, -1)
        return F.conv_transpose2d(x, each, stride=2, padding=self.padding, groups=channels)


def filtered(x: Tensor, kernel: Tensor, padding: int, stride: int = 1) -> Tensor:
    """Every channel of x [B, C, H, W] through `kernel` [1, 1, n, n]; stride 2 keeps every second pixel."""
    channels = x.shape[1]
    return F.conv2d(x, kernel.to(x.dtype).expand(channels, -1, -1, -1), None, stride, padding, groups=channels)


class Resample(nn.Module):
    """A resampling alone, as a layer. in_checkpoints: its filter is in state dictionaries, as in EDM's."""

    resample_filter: Tensor

    def __init__(self, resampling: Resampling, in_checkpoints: bool = True) -> None:
        super().__init__()
        self.resampling = resampling
        self.register_buffer("resample_filter", resampling.kernel(), persistent=in_checkpoints)

    def forward(self, x: Tensor) -> Tensor:
        return self.resampling.apply(x, self.resample_filter)
