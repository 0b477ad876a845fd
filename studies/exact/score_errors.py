"""Error of a score where the true one is known, and its reduction by a guide (Kim et al. 2023, theorems 1 and 2).

In nats, over noise levels from sigma_min to sigma_max: KL(data || model) at sigma_min is at most KL(data || model) at
sigma_max plus the error of the score that the model samples by,

    E = 1/2 int g^2 E|grad log p_data - s|^2 dt = E_sigma[sigma^2 |grad log p_data - s|^2] log(sigma_max / sigma_min),

with sigma log-uniform: the same for every process. Equal, if s is the score of the model's own diffused law.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from methods.core.density.mixtures import Mixture
from methods.core.process.noise import log_uniform_sigma
from methods.core.rng import StepRng
from methods.core.shapes import per_sample
from methods.core.types import At, Denoiser

QUADRATURE_STDS = 12.0  # standard deviations beyond the outermost means that quadrature covers


class Estimate(NamedTuple):
    value: float
    error: float  # standard error

    @classmethod
    def of(cls, values: Tensor) -> "Estimate":
        return cls(values.mean().item(), values.std().item() / math.sqrt(len(values)))


class Levels(NamedTuple):
    """Noise levels between which a score's error is integrated: those of EDM's samplers."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0


def kl_by_quadrature(p: Mixture, q: Mixture, sigma: float = 0.0, points: int = 20_001) -> float:
    """KL(p || q) of one-dimensional mixtures with noise sigma added."""
    reach = QUADRATURE_STDS * math.hypot(p.std, sigma)
    x = torch.linspace(p.means.min() - reach, p.means.max() + reach, points, dtype=torch.float64)
    level = torch.full_like(x, sigma)
    log_p, log_q = (law.log_density(x[:, None], level) for law in (p, q))
    return torch.trapezoid(log_p.exp() * (log_p - log_q), x).item()


def kl_by_sampling(p: Mixture, q: Mixture, rng: StepRng, sigma: float = 0.0, points: int = 20_000) -> Estimate:
    """KL(p || q) in any dimension."""
    x = p.sample(points, rng).double()
    x = x + sigma * rng.normal(*x.shape).to(x)
    level = torch.full_like(x[:, 0], sigma)
    return Estimate.of(p.log_density(x, level) - q.log_density(x, level))


def kl_of_flow(data: Mixture, sample: Callable[[Tensor], Tensor], cells: int = 4000, reach: float = 5.0) -> float:
    """KL(data || sampler) of a deterministic, rising sampler of one-dimensional points, however few its steps.

    sample: standard normal latents [N, 1] -> points [N, 1]. Exact over `cells` between latents: a cell's model
    probability is the normal's between two latents, its data probability that between their points.
    """
    latents = torch.linspace(-reach, reach, cells - 1, dtype=torch.float64)
    points = sample(latents[:, None]).double().flatten()
    if not (points.diff() > 0).all():
        raise ValueError("the sampler folds: a larger latent gave a smaller point; take more steps")
    ends = points.new_tensor([math.inf])
    model = _mass(torch.cat([-ends, latents, ends]))
    offsets = (torch.cat([-ends, points, ends])[:, None] - data.means.double().flatten()) / data.std
    held = _mass(offsets) @ data.weights.double()
    return torch.special.xlogy(held, held / model).sum().item()


def score_error(data: Mixture, denoise: Denoiser, rng: StepRng, levels: Levels, points: int = 20_000) -> Estimate:
    """E of the denoiser's guided score."""
    x0 = data.sample(points, rng).double()
    x, sigma = _noised(x0, rng, levels)
    prediction = denoise(x, At(sigma, 0))
    score = (prediction.x0.double() - x) / per_sample(sigma**2, x)
    if prediction.guidance_score is not None:
        score = score + prediction.guidance_score
    error = (sigma**2) * (data.score(x, sigma) - score).square().flatten(1).sum(1)
    return Estimate.of(error * math.log(levels.sigma_max / levels.sigma_min))


def gain(denoise: Denoiser, adjusted: Denoiser, x0: Tensor, rng: StepRng, levels: Levels) -> Estimate:
    """E of `denoise` less E of `adjusted`, the same denoiser with guides; from data x0 [B, *shape] alone.

    The unknown score of the data cancels: with the score of x given x0 instead, both errors grow by the same.
    """
    x0 = x0.double()
    x, sigma = _noised(x0, rng, levels)
    score = adjusted(x, At(sigma, 0)).guidance_score
    if score is None:
        return Estimate(0.0, 0.0)
    left = (denoise(x, At(sigma, 0)).x0.double() - x0) * score
    gained = -2 * left.flatten(1).sum(1) - sigma**2 * score.square().flatten(1).sum(1)
    return Estimate.of(gained * math.log(levels.sigma_max / levels.sigma_min))


def _noised(x0: Tensor, rng: StepRng, levels: Levels) -> tuple[Tensor, Tensor]:
    """x with noise, and its sigma [B], log-uniform and stratified."""
    place = torch.arange(len(x0), dtype=torch.float64, device=x0.device)
    u = (place + rng.uniform(len(x0)).to(x0)) / len(x0)
    sigma = log_uniform_sigma(u, *levels)
    return x0 + per_sample(sigma, x0) * rng.normal(*x0.shape).to(x0), sigma


def _mass(edges: Tensor) -> Tensor:
    """Of the standard normal between neighbouring edges along dimension 0, by the tail that keeps its digits."""
    low, high = edges[:-1], edges[1:]
    above = low > 0
    low, high = torch.where(above, -high, low), torch.where(above, -low, high)
    return torch.special.ndtr(high) - torch.special.ndtr(low)
