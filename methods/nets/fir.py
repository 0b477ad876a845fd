"""Resampling by a small smoothing filter, alone or fused with a convolution (Karras et al. 2020, arXiv:1912.04958).

The published implementation inserts zeros between pixels and filters all of them; strided convolutions are equal.
Filters are in the state dictionaries of EDM's networks only: the few-step papers' checkpoints hold none.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from methods.nets.layers import xavier_uniform, zeros
from methods.nets.resample import Resample, Resampling, filtered

TAPS = (1, 3, 3, 1)


def fir(direction: Literal["up", "down"], taps: tuple[int, ...] = TAPS) -> Resample:
    """[B, C, H, W] -> [B, C, 2H, 2W] or [B, C, H/2, W/2]."""
    return Resample(Resampling(direction, taps), in_checkpoints=False)


class FirConv(nn.Module):
    """A resampling and a 3x3 convolution in one: [B, inputs, H, W] -> [B, outputs, 2H, 2W] or half the size.

    The second of the two also reads the first's output outside the image, so pixels near the border differ from those
    of two separate steps. in_checkpoints: the filter is in state dictionaries (EDM's).
    """

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        direction: Literal["up", "down"],
        taps: tuple[int, ...] = TAPS,
        in_checkpoints: bool = False,
    ) -> None:
        super().__init__()
        fans = inputs * 9, outputs * 9
        self.direction: Literal["up", "down"] = direction
        self.weight = nn.Parameter(xavier_uniform((outputs, inputs, 3, 3), *fans))
        self.bias = nn.Parameter(zeros((outputs,), *fans))
        self.register_buffer("resample_filter", Resampling(direction, taps).kernel(), persistent=in_checkpoints)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        resampled = (conv_up if self.direction == "up" else conv_down)(x, weight, self.resample_filter)
        return resampled + self.bias.to(x.dtype).reshape(-1, 1, 1)


def conv_down(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """x [B, C, H, W] through `kernel` [1, 1, n, n], then `weight` [D, C, k, k], at every second pixel; n even."""
    width, padding = weight.shape[-1], (kernel.shape[-1] - 1) // 2
    if width == 1:
        return F.conv2d(filtered(x, kernel, padding, stride=2), weight)
    return F.conv2d(filtered(x, kernel, padding + width // 2), weight, stride=2)


def conv_up(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """x [B, C, H, W] with zeros between its pixels through `weight` [D, C, 3, 3], then 4 `kernel` [1, 1, n, n]."""
    spread = F.conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), stride=2)  # of size 2H + 1
    return filtered(spread, 4 * kernel, kernel.shape[-1] // 2 - 1)
