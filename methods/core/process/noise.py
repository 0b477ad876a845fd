"""Noise levels: the times of the VP, cosine and VE processes, their maps to sigma and back, and sampling grids.

Everything is elementwise and keeps the dtype of its input; use float64. sigma is the noise standard deviation in image
units: the VP state mean(t) x0 + std(t) noise is x / sqrt(1 + sigma^2) for x = x0 + sigma noise and sigma = std / mean
(discriminator guidance, eq. 8).
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearVP:
    """dx = -beta(t) x dt / 2 + sqrt(beta(t)) dw, beta linear in t in (0, 1] (Song et al. 2021, eq. 11)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0 to t."""
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def discrete_betas(self, steps: int) -> Tensor:
        """[steps] float64 variances of the chain that the process is the limit of."""
        return torch.linspace(self.beta_min / steps, self.beta_max / steps, steps, dtype=torch.float64)

    def mean(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integral(t) / 2)

    def std(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.integral(t)))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.expm1(self.integral(t)))

    def time(self, sigma: Tensor) -> Tensor:
        """t with sigma(t) = sigma: the root of B(t) = log(1 + sigma^2)."""
        return self.time_of_integral(torch.log1p(sigma**2))

    def log_variance(self, t: Tensor) -> Tensor:
        """A(t) = log sigma(t)^2, the antiderivative of beta / std^2."""
        return torch.log(torch.expm1(self.integral(t)))

    def importance_time(self, u: Tensor, time_min: float) -> Tensor:
        """Quantile u in [0, 1) of the density beta / std^2 on [time_min, 1]: log sigma^2 is uniform."""
        low, high = self.log_variance(torch.tensor([time_min, 1.0], dtype=u.dtype, device=u.device))
        return self.time_of_integral(torch.nn.functional.softplus(low + u * (high - low)))

    def time_of_integral(self, integral: Tensor) -> Tensor:
        """t with B(t) = integral."""
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))


@dataclass(frozen=True)
class CosineVP:
    """The cosine schedule in continuous time, t in (0, 1) (Nichol and Dhariwal 2021, eq. 17)."""

    offset: float = 0.008

    def mean(self, t: Tensor) -> Tensor:
        return torch.cos(self._angle(t)) / math.cos(self._start)

    def std(self, t: Tensor) -> Tensor:
        """From cos^2 b - cos^2 a = sin(a + b) sin(a - b), which keeps its digits near t = 0."""
        turned = t * (math.pi / 2 / (1 + self.offset))
        return torch.sqrt(torch.sin(self._angle(t) + self._start) * torch.sin(turned)) / math.cos(self._start)

    def sigma(self, t: Tensor) -> Tensor:
        return self.std(t) / self.mean(t)

    def time(self, sigma: Tensor) -> Tensor:
        """t with sigma(t) = sigma."""
        angle = torch.arccos(math.cos(self._start) * torch.rsqrt(1 + sigma**2))
        return (1 + self.offset) * 2 / math.pi * angle - self.offset

    @property
    def _start(self) -> float:
        return self.offset / (1 + self.offset) * math.pi / 2

    def _angle(self, t: Tensor) -> Tensor:
        return (t + self.offset) / (1 + self.offset) * (math.pi / 2)


@dataclass(frozen=True)
class SubVP:
    """The drift of LinearVP with less noise (Song et al. 2021, eq. 13)."""

    vp: LinearVP = field(default_factory=LinearVP)

    def std(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.vp.integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return 2 * torch.sinh(self.vp.integral(t) / 2)

    def time(self, sigma: Tensor) -> Tensor:
        """t with sigma(t) = sigma."""
        return self.vp.time_of_integral(2 * torch.asinh(sigma / 2))

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t) of dw."""
        return torch.sqrt(self.vp.beta(t) * -torch.expm1(-2 * self.vp.integral(t)))


@dataclass(frozen=True)
class GeometricVE:
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t, t in [0, 1] (Song et al. 2021, eq. 9).

    The marginal's standard deviation is taken to be sigma(t), as the paper does: sigma_min^2 is not subtracted.
    """

    sigma_min: float = 0.02
    sigma_max: float = 100.0

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def time(self, sigma: Tensor) -> Tensor:
        """t with sigma(t) = sigma."""
        return torch.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t) of dw."""
        return self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))


def log_uniform_sigma(u: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    """Quantile u in [0, 1] of the density g^2 / sigma^2 = 2 / sigma when sigma(t) = t: log sigma is uniform."""
    return sigma_min ** (1 - u) * sigma_max**u


# Sampling grids: [steps + 1] float64 noise levels, falling to an exact 0.


def edm_grid(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Uniform in sigma^(1/rho) (EDM eq. 5)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _down_to_zero((high + _ramp(steps) * (low - high)) ** rho)


def vp_grid(steps: int, sigma_min: float | None = None, sigma_max: float | None = None, eps: float = 1e-3) -> Tensor:
    """Uniform in VP time from 1 down to eps (EDM table 1, column VP); None: the levels of LinearVP at those times."""
    ends = LinearVP().sigma(torch.tensor([eps, 1.0], dtype=torch.float64)).tolist()
    vp = vp_between(ends[0] if sigma_min is None else sigma_min, ends[1] if sigma_max is None else sigma_max, eps)
    return _down_to_zero(vp.sigma(1 + _ramp(steps) * (eps - 1)))


def vp_between(sigma_min: float, sigma_max: float, eps: float = 1e-3) -> LinearVP:
    """The linear VP process with sigma(eps) = sigma_min and sigma(1) = sigma_max."""
    low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
    slope = 2 * (low / eps - high) / (eps - 1)
    beta_min = high - slope / 2
    return LinearVP(beta_min, beta_min + slope)


def ve_grid(steps: int, sigma_min: float = 0.02, sigma_max: float = 100.0) -> Tensor:
    """Geometric (EDM table 1, column VE)."""
    return _down_to_zero(sigma_max * (sigma_min / sigma_max) ** _ramp(steps))


def iddpm_grid(steps: int, sigma_min: float = 0.002, sigma_max: float = 81.0) -> Tensor:
    """Evenly spaced among improved DDPM's own levels within the bounds (EDM table 1, column iDDPM)."""
    levels = iddpm_levels()
    levels = levels[(levels >= sigma_min) & (levels <= sigma_max)]
    places = ((len(levels) - 1) * _ramp(steps)).round().long()
    return _down_to_zero(levels[places])


def iddpm_levels(
    steps: int = 1000, dtype: torch.dtype = torch.float64, floor: float = 0.001, offset: float = 0.008
) -> Tensor:
    """[steps + 1] sigmas u_0 > ... > u_steps = 0 of the cosine schedule, each ratio of alpha-bars at least `floor`.

    The released networks' table is the float32 one: the recursion loses up to 1e-3 of a level to rounding.
    """
    place = torch.arange(steps + 1, dtype=dtype)
    alpha_bar = torch.sin(math.pi / 2 * place / steps / (offset + 1)) ** 2
    levels = torch.zeros(steps + 1, dtype=dtype)
    for j in range(steps, 0, -1):
        levels[j - 1] = torch.sqrt((levels[j] ** 2 + 1) / (alpha_bar[j - 1] / alpha_bar[j]).clamp(min=floor) - 1)
    return levels


def rounded(grid: Tensor, levels: Tensor) -> Tensor:
    """Every level of a grid moved to the nearest of a network's own; the final 0 stays."""
    return torch.where(grid > 0, nearest(grid, levels), grid)


def nearest(sigma: Tensor, levels: Tensor) -> Tensor:
    """sigma [N] -> the nearest of `levels` [M], in sigma's dtype."""
    return levels[nearest_index(sigma, levels)].to(sigma.dtype)


def nearest_index(sigma: Tensor, levels: Tensor) -> Tensor:
    """sigma [N] -> [N] index of the nearest of `levels` [M]."""
    return (levels.to(sigma.dtype) - sigma[:, None]).abs().argmin(dim=1)


def _ramp(steps: int) -> Tensor:
    return torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)


def _down_to_zero(levels: Tensor) -> Tensor:
    return torch.cat([levels, levels.new_zeros(1)])
