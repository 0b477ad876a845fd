"""The 25 Gaussians of SIDDM's simulation: a 5 x 5 grid, neither centred nor scaled (official code).

Each coordinate is a centre's (0, 5, ..., 20) plus normal noise of standard deviation 1/3, clipped to [-1, 1].
"""

import math

import torch
from torch import Tensor

STD = 1 / 3  # before clipping
CLIP = 1.0


def centres() -> Tensor:
    """[25, 2] float64, the second coordinate running fastest."""
    side = 5 * torch.arange(5, dtype=torch.float64)
    return torch.cartesian_prod(side, side)


def points(per_mode: int = 10_000, seed: int = 1024) -> Tensor:
    """[25 per_mode, 2] float32, mode by mode; the defaults give the official training set."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.stack([torch.randn(per_mode, 2, generator=generator) for _ in range(25)])
    return (centres().float()[:, None] + (noise * STD).clamp(-CLIP, CLIP)).flatten(0, 1)


def variance_within() -> float:
    """Of one coordinate of one mode, exact: clipping leaves 0.1106 of 1/9."""
    edge = CLIP / STD
    density = math.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi)
    return STD**2 * (math.erf(edge / math.sqrt(2)) - 2 * edge * density) + CLIP**2 * math.erfc(edge / math.sqrt(2))


def moments() -> tuple[Tensor, Tensor]:
    """Exact mean [2] and covariance [2, 2] of the whole law."""
    modes = centres()
    return modes.mean(0), modes.T.cov(correction=0) + variance_within() * torch.eye(2, dtype=torch.float64)
