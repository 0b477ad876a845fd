"""Solvers of the probability-flow ODE and its stochastic relatives (EDM, algorithms 1 and 2).

State and levels are float64, the network keeps its own dtype. Guidance enters as `guidance_score` alone: the score of
the guided distribution is (D - x) / sigma^2 + guidance_score, so D becomes D + sigma^2 guidance_score.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from methods.core.process.noise import LinearVP
from methods.core.rng import ImageRng
from methods.core.shapes import per_sample
from methods.core.types import At, Denoiser

Round: TypeAlias = Callable[[Tensor], Tensor]  # sigma [B] -> the nearest level that the network was trained at


class ChurnAmount(NamedTuple):
    """How much fresh noise a step adds, per sample [B]: S_churn and S_noise of algorithm 2."""

    churn: Tensor
    noise: Tensor


ChurnLaw: TypeAlias = Callable[[At, Tensor | None], ChurnAmount]  # of the state and the last first-order log_ratio [B]


@dataclass(frozen=True)
class Churn:
    """The paper's: the same for all samples, at levels within [sigma_min, sigma_max]."""

    churn: float = 0.0
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    noise: float = 1.0

    def __call__(self, at: At, log_ratio: Tensor | None) -> ChurnAmount:
        inside = (at.sigma >= self.sigma_min) & (at.sigma <= self.sigma_max)
        return ChurnAmount(inside.to(at.sigma) * self.churn, torch.full_like(at.sigma, self.noise))


@dataclass(frozen=True)
class BoostedChurn:
    """More of it every `period`-th step for samples whose density ratio was last below one (EDM-G++)."""

    usual: Churn = field(default_factory=Churn)
    churn: float = 4.0
    period: int = 5

    def __call__(self, at: At, log_ratio: Tensor | None) -> ChurnAmount:
        amount = self.usual(at, log_ratio)
        if log_ratio is None or at.step % self.period:
            return amount
        more = Churn(self.churn, self.usual.sigma_min, self.usual.sigma_max)(at, log_ratio)
        unlikely = log_ratio < 0
        return ChurnAmount(
            torch.where(unlikely, more.churn, amount.churn), torch.where(unlikely, more.noise, amount.noise)
        )


def as_is(sigma: Tensor) -> Tensor:
    """No rounding, for networks trained at every noise level."""
    return sigma


@torch.no_grad()
def heun(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    rng: ImageRng | None = None,
    churn: ChurnLaw | None = None,
    round_sigma: Round = as_is,
) -> Tensor:
    """EDM algorithm 2; without churn, algorithm 1: 2 N - 1 network calls for N steps. float64 [B, *shape].

    x: [B, *shape] noise at level sigmas[0]; sigmas: [N + 1] falling to 0. With churn a draw of noise is taken from
    rng at every step, so that the noise of a step does not depend on earlier amounts.
    """
    x = x.double()
    levels = sigmas.tolist()
    log_ratio: Tensor | None = None
    for step, (level, after) in enumerate(pairwise(levels)):
        sigma, follows = expand_level(level, x), expand_level(after, x)
        hat, x = sigma, x
        if churn is not None:
            amount = churn(At(sigma, step), log_ratio)
            hat = round_sigma(sigma * (1 + _gamma(amount, len(levels) - 1)))
            added = (hat**2 - sigma**2).clamp(min=0).sqrt()
            x = x + per_sample(added * amount.noise, x) * fresh_noise(rng, x)
        x_hat, stride = x, per_sample(follows - hat, x)
        target, log_ratio = guided_image(denoise, x_hat, At(hat, step, begins=level))
        slope = (x_hat - target) / per_sample(hat, x)
        x = x_hat + stride * slope
        if after > 0:
            target, _ = guided_image(denoise, x, At(follows, step, 2, level))
            x = x_hat + stride * (slope + (x - target) / per_sample(follows, x)) / 2
    return x


class Path(NamedTuple):
    """A curve x(t) = s(t) (x0 + sigma(t) noise); all functions are elementwise (EDM eq. 4)."""

    sigma: Callable[[Tensor], Tensor]
    sigma_slope: Callable[[Tensor], Tensor]
    time: Callable[[Tensor], Tensor]  # the inverse of sigma
    scale: Callable[[Tensor], Tensor] = torch.ones_like
    scale_slope: Callable[[Tensor], Tensor] = torch.zeros_like


LINEAR = Path(lambda t: t, torch.ones_like, lambda sigma: sigma)
VE = Path(torch.sqrt, lambda t: 0.5 / torch.sqrt(t), torch.square)


def vp_schedule(vp: LinearVP) -> Path:
    """The noise schedule of a VP process, unscaled."""
    return Path(vp.sigma, lambda t: 0.5 * vp.beta(t) * (vp.sigma(t) + 1 / vp.sigma(t)), vp.time)


def vp_scaled(path: Path) -> Path:
    """`path` with s = 1 / sqrt(1 + sigma^2), so that unit-variance data keep unit variance."""

    def scale(t: Tensor) -> Tensor:
        return torch.rsqrt(1 + path.sigma(t) ** 2)

    return path._replace(scale=scale, scale_slope=lambda t: -path.sigma(t) * path.sigma_slope(t) * scale(t) ** 3)


@torch.no_grad()
def follow(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Tensor,
    path: Path = LINEAR,
    alpha: float | None = 1.0,
    rng: ImageRng | None = None,
    churn: ChurnLaw | None = None,
    round_sigma: Round = as_is,
) -> Tensor:
    """The generalised sampler of EDM's ablations (algorithms 1 and 3, appendix), along any path. float64 [B, *shape].

    noise: [B, *shape] standard normal; sigmas as in `heun`. alpha: where the second evaluation of a step lies, 1 Heun,
    1/2 midpoint; None: Euler. The last step is always Euler.
    """
    noise = noise.double()
    times = [path.time(level).item() for level in sigmas[:-1].double()] + [0.0]
    t0 = expand_level(times[0], noise)
    x = noise * per_sample(path.sigma(t0) * path.scale(t0), noise)
    log_ratio: Tensor | None = None
    for step, (time, after) in enumerate(pairwise(times)):
        t, begins = expand_level(time, x), float(sigmas[step])
        t_hat, x_hat = t, x
        if churn is not None:
            sigma = path.sigma(t)
            amount = churn(At(sigma, step), log_ratio)
            t_hat = path.time(round_sigma(sigma * (1 + _gamma(amount, len(times) - 1))))
            added = (path.sigma(t_hat) ** 2 - sigma**2).clamp(min=0).sqrt() * path.scale(t_hat) * amount.noise
            x_hat = per_sample(path.scale(t_hat) / path.scale(t), x) * x + per_sample(added, x) * fresh_noise(rng, x)
        stride = expand_level(after, x) - t_hat
        slope, log_ratio = slope_at(denoise, x_hat, t_hat, path, At(path.sigma(t_hat), step, begins=begins))
        x = x_hat + per_sample(stride, x) * slope
        if alpha is not None and after > 0:
            t_mid = t_hat + alpha * stride
            x_mid = x_hat + per_sample(alpha * stride, x) * slope
            slope_mid, _ = slope_at(denoise, x_mid, t_mid, path, At(path.sigma(t_mid), step, 2, begins))
            share = 1 / (2 * alpha)
            x = x_hat + per_sample(stride, x) * ((1 - share) * slope + share * slope_mid)
    return x


def slope_at(denoise: Denoiser, x: Tensor, t: Tensor, path: Path, at: At) -> tuple[Tensor, Tensor | None]:
    """dx/dt along `path` at t [B] (EDM eq. 81), and the log density ratio of the evaluation."""
    sigma, sigma_slope, scale, scale_slope = path.sigma(t), path.sigma_slope(t), path.scale(t), path.scale_slope(t)
    target, log_ratio = guided_image(denoise, x / per_sample(scale, x), at)
    rate = sigma_slope / sigma
    return per_sample(rate + scale_slope / scale, x) * x - per_sample(rate * scale, x) * target, log_ratio


def guided_image(denoise: Denoiser, x: Tensor, at: At) -> tuple[Tensor, Tensor | None]:
    """The guided denoised image and the log density ratio."""
    x0, score, _, log_ratio = denoise(x, at)
    if score is None:
        return x0.to(x), log_ratio
    return x0.to(x) + per_sample(at.sigma**2, x) * score, log_ratio


def _gamma(amount: ChurnAmount, steps: int) -> Tensor:
    return (amount.churn / steps).clamp(max=math.sqrt(2) - 1)


def fresh_noise(rng: ImageRng | None, x: Tensor) -> Tensor:
    if rng is None:
        raise ValueError("churn adds noise: pass the random numbers of the images (rng)")
    return rng.normal(*x.shape[1:]).to(x)


def expand_level(value: float, x: Tensor) -> Tensor:
    """The same level for every sample: [B] float64, B = len(x)."""
    return torch.full((len(x),), value, dtype=torch.float64, device=x.device)
