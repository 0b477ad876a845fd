"""Likelihood of any denoiser by the probability-flow ODE (Song et al. 2021, section 4.3 and appendix D.2)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from methods.core.noise import LinearVP
from methods.core.ode import rk45
from methods.core.shapes import per_sample
from methods.core.types import At, Denoiser


class Likelihood(NamedTuple):
    log_density: Tensor  # [B] nats, of x at the earliest time
    latent: Tensor  # [B, *shape] where the flow carries x
    calls: int  # network evaluations, each with one product with its Jacobian


def flow_likelihood(
    denoise: Denoiser,
    x: Tensor,
    probe: Tensor,
    process: LinearVP | None = None,
    time_min: float = 1e-5,
    tolerance: float = 1e-5,
) -> Likelihood:
    """log p of x [B, *shape] under the model, by the flow of a variance-preserving process from time_min to 1.

    probe: [B, *shape], each entry +-1 or normal: Hutchinson's estimate of the divergence, e^T J e, kept for the whole
    path; the mean over e and independent e is unbiased. A guided denoiser's push belongs to its score.
    """
    process = LinearVP() if process is None else process
    count, values = len(x), x[0].numel()

    def slope(t: float, state: Tensor) -> Tensor:
        time = torch.full((count,), t, dtype=torch.float64, device=x.device)
        with torch.enable_grad():
            x_t = state[: count * values].view_as(x).detach().requires_grad_(True)
            velocity = _velocity(denoise, x_t, process, time)
            (product,) = torch.autograd.grad((velocity * probe).sum(), x_t)
        divergence = (product * probe).flatten(1).sum(1)
        return torch.cat([velocity.detach().flatten(), divergence])

    begin = torch.cat([x.double().flatten(), x.new_zeros(count).double()])
    end, calls = rk45(slope, begin, time_min, 1.0, tolerance, tolerance)
    latent, gained = end[: count * values].view_as(x), end[count * values :]
    prior = -0.5 * (latent.square().flatten(1).sum(1) + values * math.log(2 * math.pi))
    return Likelihood(prior + gained, latent, calls)


def bits_per_dimension(log_density: Tensor, dimensions: int) -> Tensor:
    """Of pictures with 256 grey levels dequantised in [-1, 1]: a level is 1/128 wide, which costs 7 bits."""
    return -log_density / (dimensions * math.log(2)) + 7


def _velocity(denoise: Denoiser, x: Tensor, process: LinearVP, time: Tensor) -> Tensor:
    """-beta (x + score) / 2, the score of x at `time` taken from the denoiser at the same noise level."""
    mean, std = per_sample(process.mean(time), x), per_sample(process.std(time), x)
    said = denoise(x / mean, At(process.sigma(time), 0))
    score = (mean * said.x0.double() - x) / std**2
    if said.push is not None:
        score = score + said.push / mean
    return -per_sample(process.beta(time), x) / 2 * (x + score)
