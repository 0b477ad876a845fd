"""Discrete Gaussian chains x_k = sqrt(1 - beta_k) x_{k-1} + sqrt(beta_k) noise: their tables, schedules and spacings.

Index 0 is the least noisy state and already carries beta_0; the state before it is the clean image.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor

from methods.core.checks import require
from methods.core.process.posterior import Posterior, posterior


@dataclass(frozen=True, eq=False)
class Chain:
    """Tables of a chain of T steps, all float64 [T] on the CPU."""

    betas: Tensor
    steps: Tensor  # int64: index in the chain the network was trained on: the time input of networks and classifiers

    @classmethod
    def of(cls, betas: Tensor) -> "Chain":
        return cls(betas, torch.arange(len(betas)))

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alpha_bar(self) -> Tensor:
        return torch.cumprod(1 - self.betas, 0)

    @cached_property
    def alpha_bar_before(self) -> Tensor:
        return torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    @cached_property
    def sigma(self) -> Tensor:
        """Noise standard deviation in image units."""
        return (1 / self.alpha_bar - 1).sqrt()

    @cached_property
    def posterior(self) -> Posterior:
        """Of the state before, given each state and the clean image."""
        return posterior(self.alpha_bar_before, self.betas)

    @cached_property
    def variance_small(self) -> Tensor:
        """The posterior's; its first entry is 0."""
        return self.posterior.variance

    @cached_property
    def variance_large(self) -> Tensor:
        """beta, but for the first entry, which is the posterior's second (official code of improved DDPM)."""
        return torch.cat([self._second_variance, self.betas[1:]])

    @cached_property
    def log_variance_small(self) -> Tensor:
        """Logarithm of the posterior's, its first entry (0) replaced by the second."""
        return torch.cat([self._second_variance, self.variance_small[1:]]).log()

    @property
    def _second_variance(self) -> Tensor:
        return self.variance_small[1:2] if len(self) > 1 else self.betas

    def index_of(self, sigma: Tensor) -> Tensor:
        """[B] int64: the state whose noise level is nearest to sigma [B], in ratio."""
        levels = self.sigma.to(sigma).log()
        return (levels - sigma.log()[:, None]).abs().argmin(1)

    def kept(self, indices: Tensor) -> "Chain":
        """The chain that visits only these states (ascending), with the same noise level at each. iDDPM eq. 19."""
        alpha_bar = self.alpha_bar[indices]
        before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        return Chain(1 - alpha_bar / before, self.steps[indices])

    def spaced(self, spacing: str | None) -> "Chain":
        """`"250"`: 250 states evenly; `"90,60,20"`: by section; `"ddim50"`: one integer stride; None: all."""
        return self if spacing is None else self.kept(torch.tensor(spaced_indices(len(self), spacing)))


def look_up(table: Tensor, index: Tensor) -> Tensor:
    """[B] entries of a chain's table, in its precision and on the device of index [B]."""
    return table.to(index.device)[index]


# --- schedules ------------------------------------------------------------------------------------------------------


def linear_betas(steps: int, low: float = 1e-4, high: float = 0.02) -> Tensor:
    """DDPM; `low` and `high` are those of 1000 steps and are scaled to others."""
    scale = 1000 / steps
    return torch.linspace(scale * low, scale * high, steps, dtype=torch.float64)


def cosine_betas(steps: int) -> Tensor:
    """Improved DDPM eq. 17, at most 0.999."""
    edge = torch.arange(steps + 1, dtype=torch.float64) / steps
    level = torch.cos((edge + 0.008) / 1.008 * torch.pi / 2).square()
    return (1 - level[1:] / level[:-1]).clamp(max=0.999)


def quadratic_betas(steps: int, low: float = 1e-4, high: float = 0.02) -> Tensor:
    """Linear in the square root."""
    return torch.linspace(low**0.5, high**0.5, steps, dtype=torch.float64).square()


def sigmoid_betas(steps: int, low: float = 1e-4, high: float = 0.02) -> Tensor:
    return low + (high - low) * torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid()


def constant_betas(steps: int, high: float = 0.02) -> Tensor:
    return torch.full((steps,), high, dtype=torch.float64)


def harmonic_betas(steps: int) -> Tensor:
    """1 / T, ..., 1 / 2, 1: signal variance falls by equal amounts ("jsd" in the DDIM code)."""
    return 1 / torch.linspace(steps, 1, steps, dtype=torch.float64)


def vp_betas(steps: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """A few steps along the VP process of score SDEs, from time 0.001 to 1 (DDGAN's official code)."""
    time = few_step_times(steps)
    return _betas_between(torch.exp(-(time**2) * (beta_max - beta_min) / 2 - time * beta_min))


def geometric_betas(steps: int, low: float, high: float) -> Tensor:
    """A few steps with noise variance low at time 0, high at time 1, geometric between (DDGAN's official code)."""
    return _betas_between(1 - low * (high / low) ** few_step_times(steps))


def few_step_times(steps: int) -> Tensor:
    """[T + 1] from 0.001 to 1. What noise there is at 0.001 is divided out: the first state is the clean image."""
    return torch.arange(steps + 1, dtype=torch.float64) / steps * (1 - 1e-3) + 1e-3


def _betas_between(alpha_bar: Tensor) -> Tensor:
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


def latent_betas(steps: int) -> Tensor:
    """Latent diffusion, 1000 steps: linear in the square root. The last state keeps alpha_bar 0.0047 of the image."""
    return quadratic_betas(steps, 8.5e-4, 0.012)


Schedule = Literal["linear", "cosine", "quadratic", "sigmoid", "constant", "harmonic", "latent"]


BETAS: dict[Schedule, Callable[[int], Tensor]] = {
    **{"linear": linear_betas, "cosine": cosine_betas, "quadratic": quadratic_betas},
    **{"sigmoid": sigmoid_betas, "constant": constant_betas, "harmonic": harmonic_betas},
    "latent": latent_betas,
}


@lru_cache
def chain_of(schedule: Schedule, steps: int) -> Chain:
    """A fine chain with the papers' end points."""
    return Chain.of(BETAS[schedule](steps))


# --- spacings -------------------------------------------------------------------------------------------------------


def spaced_indices(steps: int, spacing: str) -> list[int]:
    """Which of `steps` states a spacing keeps, as improved DDPM and its DDIM option choose them."""
    known = re.fullmatch(r"(ddim)?[1-9]\d*|[1-9]\d*(,[1-9]\d*)+", spacing)
    require(known is not None, "spacing", repr(spacing), "a count above 0, counts by section '90,60,20', or 'ddim50'")
    if spacing.startswith("ddim"):
        return _strided(steps, int(spacing.removeprefix("ddim")))
    counts = [int(count) for count in spacing.split(",")]
    size, longer = divmod(steps, len(counts))
    kept, start = [], 0
    for section, count in enumerate(counts):
        length = size + (section < longer)
        if not 1 <= count <= length:
            raise ValueError(f"spacing {spacing!r}: section {section + 1} has {length} states, cannot keep {count}")
        kept += [start + offset for offset in _even_offsets(length, count)]
        start += length
    return kept


def _strided(steps: int, count: int) -> list[int]:
    for stride in range(1, steps):
        if len(range(0, steps, stride)) == count:
            return list(range(0, steps, stride))
    raise ValueError(
        f"spacing 'ddim{count}': no whole stride visits {count} of {steps} states; try a divisor of {steps}"
    )


def _even_offsets(length: int, count: int) -> list[int]:
    """Rounded multiples of the stride, added up in floating point as the official code does."""
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    offsets, position = [], 0.0
    for _ in range(count):
        offsets.append(round(position))
        position += stride
    return offsets
