"""Likelihood of any denoiser by the probability-flow ODE (Song et al. 2021, section 4.3 and appendix D.2), exact and as
a variational bound, both truncated at a least time (Kim et al. 2022, Soft Truncation, arXiv:2106.05527).

All in the variance-preserving coordinates of `process`, time from time_min to 1; vp_between(0.002, 80) keeps to the
noise levels of EDM's networks. Guidance is part of a denoiser's score; its weights must not depend on the step.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from methods.core.process.noise import LinearVP
from methods.core.rng import ImageRng
from methods.core.sampling.ode import rk45
from methods.core.shapes import per_sample
from methods.core.types import At, Denoiser

GREY_LEVELS = 256


class Likelihood(NamedTuple):
    log_density: Tensor  # [B] nats, of x at the earliest time
    latent: Tensor  # [B, *shape] end point of the flow from x
    calls: int  # network evaluations, each with one product with its Jacobian


class BitsPerDim(NamedTuple):
    """Each [B]; their means over images are what papers print."""

    nll: Tensor  # of the flow, truncated
    nelbo: Tensor  # of the reverse process, truncated; equals nll where the score is that of a diffused distribution


def bits_per_dim(
    denoise: Denoiser,
    x: Tensor,
    rng: ImageRng,
    process: LinearVP | None = None,
    time_min: float = 1e-5,
    times: int = 32,
    tolerance: float = 1e-5,
) -> BitsPerDim:
    """Unbiased estimates for x [B, *shape] in [-1, 1], `dequantised` if it has grey levels.

    times: evaluations per image of the bound, at stratified importance-weighted times; the flow takes a hundred or so.
    """
    process, x = LinearVP() if process is None else process, x.double()
    shape, values = x.shape[1:], x[0].numel()
    noise = rng.normal(*shape).to(x)
    least, residual = last_step(denoise, x, noise, process, time_min)
    probe = torch.where(rng.normal(*shape).to(x) < 0, -1.0, 1.0)
    flow = flow_likelihood(denoise, least, probe, process, time_min, tolerance)
    spent = x.new_zeros(len(x))
    for place in range(times):
        u = (place + rng.uniform().to(x)) / times
        spent = spent + _bound_at(denoise, x, rng.normal(*shape).to(x), u, process, time_min) / times
    nll = bits_per_dimension(flow.log_density - residual, values)
    nelbo = bits_per_dimension(-(spent + _bound_at_ends(x, process, time_min) + residual), values)
    return BitsPerDim(nll, nelbo)


def dequantised(images: Tensor, u: Tensor) -> Tensor:
    """Pictures with 256 grey levels, -1 to 1, spread over [-1, 1) by u, uniform in [0, 1) and of their shape."""
    return ((images.double() + 1) * ((GREY_LEVELS - 1) / 2) + u) * (2 / GREY_LEVELS) - 1


def bits_per_dimension(log_density: Tensor, dimensions: int) -> Tensor:
    """Of pictures with 256 grey levels dequantised in [-1, 1]: a level is 1/128 wide, which costs 7 bits."""
    return -log_density / (dimensions * math.log(2)) + math.log2(GREY_LEVELS / 2)


def flow_likelihood(
    denoise: Denoiser,
    x: Tensor,
    probe: Tensor,
    process: LinearVP | None = None,
    time_min: float = 1e-5,
    tolerance: float = 1e-5,
) -> Likelihood:
    """log p of x [B, *shape] under the model, by the flow from time_min to 1.

    probe: [B, *shape], each entry +-1 or normal: Hutchinson's estimate of the divergence, e^T J e, kept for the whole
    path; the mean over e and independent e is unbiased.
    """
    process = LinearVP() if process is None else process
    count, values = len(x), x[0].numel()

    def slope(t: float, state: Tensor) -> Tensor:
        time = torch.full((count,), t, dtype=torch.float64, device=x.device)
        with torch.enable_grad():
            x_t = state[: count * values].view_as(x).detach().requires_grad_(True)
            noise = _noise_in(denoise, x_t, process, time)
            score = -noise / per_sample(process.std(time), x_t)
            velocity = -per_sample(process.beta(time), x_t) / 2 * (x_t + score)
            (product,) = torch.autograd.grad((velocity * probe).sum(), x_t)
        divergence = (product * probe).flatten(1).sum(1)
        return torch.cat([velocity.detach().flatten(), divergence])

    begin = torch.cat([x.double().flatten(), x.new_zeros(count).double()])
    end, calls = rk45(slope, begin, time_min, 1.0, tolerance, tolerance)
    latent, gained = end[: count * values].view_as(x), end[count * values :]
    prior = -0.5 * (latent.square().flatten(1).sum(1) + values * math.log(2 * math.pi))
    return Likelihood(prior + gained, latent, calls)


@torch.no_grad()
def last_step(denoise: Denoiser, x: Tensor, noise: Tensor, process: LinearVP, time_min: float) -> tuple[Tensor, Tensor]:
    """x at time_min, and [B] nats that the step from there down to x costs: -log p(x | x_t) + log q(x_t | x).

    p(x | x_t) is normal around E[x0 | x_t], its standard deviation sigma; the second term is its own expectation.
    """
    time = torch.full((len(x),), time_min, dtype=torch.float64, device=x.device)
    mean, std, values = process.mean(time), process.std(time), x[0].numel()
    x_t = per_sample(mean, x) * x + per_sample(std, x) * noise
    error = _noise_in(denoise, x_t, process, time) - noise  # (x - E[x0 | x_t]) / sigma
    return x_t, error.square().flatten(1).sum(1) / 2 - values / 2 - values * mean.log()


@torch.no_grad()
def _bound_at(denoise: Denoiser, x: Tensor, noise: Tensor, u: Tensor, process: LinearVP, time_min: float) -> Tensor:
    """[B] nats: the integrand of the bound over its sampling density, at quantile u [B] of importance-weighted time.

    1/2 g^2 (|s - s*|^2 - |s*|^2), s* the score of x_t given x, with E|s*|^2 exact.
    """
    low, high = process.log_variance(u.new_tensor([time_min, 1.0])).tolist()
    time = process.importance_time(u, time_min)
    x_t = per_sample(process.mean(time), x) * x + per_sample(process.std(time), x) * noise
    error = _noise_in(denoise, x_t, process, time) - noise
    return (high - low) / 2 * (error.square().flatten(1).sum(1) - x[0].numel())


def _bound_at_ends(x: Tensor, process: LinearVP, time_min: float) -> Tensor:
    """[B] nats: -E log prior(x_1), and minus the divergence of the drift, -beta / 2 each value, all exact."""
    low, high = torch.tensor([time_min, 1.0], dtype=torch.float64, device=x.device)
    square = process.mean(high) ** 2 * x.square().flatten(1).sum(1) + x[0].numel() * process.std(high) ** 2
    drift = x[0].numel() / 2 * (process.integral(high) - process.integral(low))
    return (square + x[0].numel() * math.log(2 * math.pi)) / 2 + drift


def _noise_in(denoise: Denoiser, x_t: Tensor, process: LinearVP, time: Tensor) -> Tensor:
    """The guided denoiser's estimate of the noise in x_t: -std * score."""
    mean, sigma = per_sample(process.mean(time), x_t), per_sample(process.sigma(time), x_t)
    x = x_t / mean
    prediction = denoise(x, At(sigma.flatten(), 0))
    noise, score = (x - prediction.x0.double()) / sigma, prediction.guidance_score
    return noise if score is None else noise - sigma * score.double()
