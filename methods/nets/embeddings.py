"""Sinusoidal features of a scalar per image. The order of sine and cosine and the last frequency differ by paper."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cos_sin_embedding(t: Tensor, dim: int) -> Tensor:
    """[B] float -> [B, dim]: cosines, then sines, of t * 10000^(-j / half), j = 0 ... half - 1; odd dim: a zero last.

    ADM's (t: step index) and that of EDM's ADM variant (t: c_noise).
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=t.dtype, device=t.device) / half
    phases = t.outer(torch.exp(-math.log(10000) * exponents))
    return F.pad(torch.cat([phases.cos(), phases.sin()], dim=1), (0, dim % 2))


def sin_cos_embedding(t: Tensor, dim: int) -> Tensor:
    """[B] float -> [B, dim], dim even: sines, then cosines, of t * 10000^(-j / (half - 1)), so down to t / 10000.

    DDPM++'s.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=t.dtype, device=t.device) / (half - 1)
    phases = t.outer((1 / 10000) ** exponents)
    return torch.cat([phases.sin(), phases.cos()], dim=1)


def sinusoids(time: Tensor, width: int) -> Tensor:
    """[B] float -> [B, width]: `sin_cos_embedding` as the few-step papers round it; a zero last if width is odd."""
    half = width // 2
    falling = torch.arange(half, dtype=time.dtype, device=time.device) * (-math.log(10000) / (half - 1))
    phases = time.outer(falling.exp())
    return F.pad(torch.cat([phases.sin(), phases.cos()], dim=1), (0, width % 2))


def octave_embedding(t: Tensor, dim: int) -> Tensor:
    """[B] float -> [B, dim], dim even: sines, then cosines, of t times 8 ... 1/1024, evenly in octaves.

    Ours, for small networks whose noise labels may be ln(sigma) / 4, where `sin_cos_embedding` is nearly linear and was
    learned worse (25 Gaussians, 1,500 steps, 2 seeds: excess error 0.04 and 0.05 against 0.11 and 0.06), or steps.
    """
    phases = t.outer(2 ** torch.linspace(3, -10, dim // 2, dtype=t.dtype, device=t.device))
    return torch.cat([phases.sin(), phases.cos()], dim=1)


def split_pair(noise_labels: Tensor, second: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """[B] of a network of one time, with None; [B, 2] of one of two, with a layer `second`, apart. Else ValueError."""
    if (noise_labels.dim() == 2) != (second is not None):
        wanted = "[B]" if second is None else "[B, 2], a network of pairs,"
        raise ValueError(f"noise_labels: shape {list(noise_labels.shape)} came, {wanted} was wanted")
    return (noise_labels, None) if second is None else (noise_labels[:, 0], noise_labels[:, 1])


class TimeEmbedding(nn.Module):
    """[B] time, as the method scales it -> [B, outputs]: `sinusoids` of `width` through the layers `main`."""

    def __init__(self, width: int, main: nn.Sequential) -> None:
        super().__init__()
        self.width, self.main = width, main

    def forward(self, time: Tensor) -> Tensor:
        return self.main(sinusoids(time, self.width))


class SinCosEmbedding(nn.Module):
    """`sin_cos_embedding` as a layer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        return sin_cos_embedding(t, self.dim)


class FourierEmbedding(nn.Module):
    """[B] -> [B, dim]: sines, then cosines, of 2 pi t f with random frequencies f ~ N(0, scale^2). NCSN++."""

    freqs: Tensor

    def __init__(self, dim: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.empty(dim // 2).normal_() * scale)

    def forward(self, t: Tensor) -> Tensor:
        phases = t.outer((2 * math.pi * self.freqs).to(t.dtype))
        return torch.cat([phases.sin(), phases.cos()], dim=1)
