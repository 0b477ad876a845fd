"""Score SDEs as paths, their probability flow by adaptive steps, their reverse SDE, and starts from an image.

Song et al. 2021 (arXiv:2011.13456), sections 3.4 and 4.3; SDEdit: Meng et al. 2022 (arXiv:2108.01073). Guidance enters
through the denoised image alone, as in `samplers`.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from methods.core.checks import check_source, require
from methods.core.process.noise import GeometricVE, LinearVP, SubVP
from methods.core.rng import ImageRng
from methods.core.sampling.ode import rk45
from methods.core.sampling.samplers import (
    Path,
    expand_level,
    fresh_noise,
    guided_image,
    slope_at,
    vp_scaled,
    vp_schedule,
)
from methods.core.shapes import per_sample
from methods.core.types import At, Denoiser, Source


def vp_path(vp: LinearVP) -> Path:
    return vp_scaled(vp_schedule(vp))


def sub_vp_path(sub: SubVP) -> Path:
    """Drift of the VP process, standard deviation 1 - exp(-B): sigma = 2 sinh(B / 2)."""
    vp = sub.vp
    return Path(
        sub.sigma,
        lambda t: vp.beta(t) * torch.cosh(vp.integral(t) / 2),
        sub.time,
        vp.mean,
        lambda t: -0.5 * vp.beta(t) * vp.mean(t),
    )


def ve_path(ve: GeometricVE) -> Path:
    growth = math.log(ve.sigma_max / ve.sigma_min)
    return Path(ve.sigma, lambda t: growth * ve.sigma(t), ve.time)


def grid_along(path: Path, steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """[steps + 1] float64 noise levels uniform in the path's time, falling to an exact 0."""
    first, last = path.time(torch.tensor([sigma_max, sigma_min], dtype=torch.float64)).tolist()
    levels = path.sigma(torch.linspace(first, last, steps, dtype=torch.float64))
    return torch.cat([levels, levels.new_zeros(1)])


@torch.no_grad()
def flow(
    denoise: Denoiser, x: Tensor, path: Path, sigma_max: float, sigma_min: float, tolerance: float = 1e-5
) -> Tensor:
    """The probability-flow ODE by Runge-Kutta 4(5), then one Euler step to 0. float64 [B, *shape].

    x: [B, *shape] = x0 + sigma_max noise. One step size for the batch. Every evaluation but the last counts as step 0,
    so that an adaptive guide's weight is a function of x and sigma: weights that change by step have no ODE.
    """
    start, stop = path.time(torch.tensor([sigma_max, sigma_min], dtype=torch.float64)).tolist()

    def slope(time: float, state: Tensor) -> Tensor:
        t = expand_level(time, state)
        return slope_at(denoise, state, t, path, At(path.sigma(t), 0))[0]

    first, last = expand_level(start, x), expand_level(stop, x)
    x = rk45(slope, x.double() * per_sample(path.scale(first), x), start, stop, tolerance, tolerance).y
    return guided_image(denoise, x / per_sample(path.scale(last), x), At(path.sigma(last), 1))[0]


@torch.no_grad()
def reverse_sde(denoise: Denoiser, x: Tensor, sigmas: Tensor, path: Path, rng: ImageRng) -> Tensor:
    """The reverse SDE by Euler and Maruyama, its last step without noise. float64 [B, *shape].

    x: [B, *shape] = x0 + sigmas[0] noise; sigmas as in `heun`. dx = (f - g^2 score) dt + g dw is twice the flow's slope
    less the drift f = s'/s x, with g^2 = 2 s^2 sigma sigma'.
    """
    times = [path.time(level).item() for level in sigmas[:-1].double()]
    x = x.double() * per_sample(path.scale(expand_level(times[0], x)), x)
    for step, (time, after) in enumerate(pairwise(times)):
        t, stride = expand_level(time, x), after - time
        slope, _ = slope_at(denoise, x, t, path, At(path.sigma(t), step, begins=float(sigmas[step])))
        drift = per_sample(path.scale_slope(t) / path.scale(t), x) * x
        spread = (2 * path.sigma(t) * path.sigma_slope(t) * abs(stride)).sqrt() * path.scale(t)
        x = x + stride * (2 * slope - drift) + per_sample(spread, x) * fresh_noise(rng, x)
    last = expand_level(times[-1], x)
    return guided_image(denoise, x / per_sample(path.scale(last), x), At(path.sigma(last), len(times) - 1))[0]


def begin(noise: Tensor, sigmas: Tensor, source: Source | None = None) -> tuple[Tensor, Tensor]:
    """The first state, x0 + sigma noise, and the levels to visit: all of them, or those from the source's on."""
    if source is None:
        return noise * sigmas[0], sigmas
    low, high = float(sigmas[-2]), float(sigmas[0])
    require(low <= source.sigma <= high, "source.sigma", source.sigma, f"one of the sampler's levels, {low} to {high},")
    check_source(source, noise)
    left = torch.cat([sigmas.new_tensor([source.sigma]), sigmas[sigmas < source.sigma]])
    return source.images.to(noise) + left[0] * noise, left
