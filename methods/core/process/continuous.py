"""Pairs of times in (0, 1] on the cosine schedule, as SIDDM has it: continuous, and not normalised."""

from typing import NamedTuple

import torch
from torch import Tensor


class Times(NamedTuple):
    """A pair of times, each [B], and what the schedule makes of them."""

    s: Tensor
    u: Tensor
    alpha_bar_s: Tensor
    alpha_bar_u: Tensor
    beta: Tensor  # of the step from s to u


def alpha_bar(time: Tensor) -> Tensor:
    """The cosine schedule, not normalised: 0.9998 at time 0, so that even there x carries noise of 0.0125."""
    return torch.cos((time + 0.008) / 1.008 * torch.pi / 2).clamp(0, 1).square()


def pair_of_times(s: Tensor, u: Tensor) -> Times:
    alpha_bar_s, alpha_bar_u = alpha_bar(s), alpha_bar(u)
    return Times(s, u, alpha_bar_s, alpha_bar_u, 1 - alpha_bar_u / alpha_bar_s)
