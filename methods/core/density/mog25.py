"""The 25 Gaussians of SIDDM's simulation: a 5 x 5 grid, neither centred nor scaled (official code); or any square.

Each coordinate is a centre's (0, 5, ..., 20) plus normal noise of standard deviation 1/3, clipped to [-1, 1].
"""

import math

import torch
from torch import Tensor

SIDE = 5  # modes along one side of the grid
SPACING = 5.0  # between neighbouring centres
STD = 1 / 3  # before clipping
CLIP = 1.0


def centres(side: int = SIDE) -> Tensor:
    """[side^2, 2] float64, the second coordinate running fastest."""
    line = SPACING * torch.arange(side, dtype=torch.float64)
    return torch.cartesian_prod(line, line)


def points(per_mode: int = 10_000, seed: int = 1024, side: int = SIDE) -> Tensor:
    """[side^2 per_mode, 2] float32, mode by mode; the defaults give the official training set."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.stack([torch.randn(per_mode, 2, generator=generator) for _ in range(side**2)])
    return (centres(side).float()[:, None] + _clipped(noise)).flatten(0, 1)


def draws(count: int, seed: int, side: int = SIDE) -> Tensor:
    """[count, 2] float32, independent: every point from a mode of its own choice."""
    generator = torch.Generator().manual_seed(seed)
    modes = torch.randint(side**2, (count,), generator=generator)
    return centres(side).float()[modes] + _clipped(torch.randn(count, 2, generator=generator))


def variance_within() -> float:
    """Of one coordinate of one mode, exact: clipping leaves 0.1106 of 1/9."""
    edge = CLIP / STD
    density = math.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi)
    return STD**2 * (math.erf(edge / math.sqrt(2)) - 2 * edge * density) + CLIP**2 * math.erfc(edge / math.sqrt(2))


def moments(side: int = SIDE) -> tuple[Tensor, Tensor]:
    """Exact mean [2] and covariance [2, 2] of the whole distribution."""
    modes = centres(side)
    return modes.mean(0), modes.T.cov(correction=0) + variance_within() * torch.eye(2, dtype=torch.float64)


def _clipped(noise: Tensor) -> Tensor:
    return (noise * STD).clamp(-CLIP, CLIP)
