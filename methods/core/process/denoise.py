"""Preconditioned denoisers D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (EDM eq. 7 and table 1)."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from methods.core.process.noise import LinearVP, iddpm_levels, nearest, nearest_index
from methods.core.shapes import per_sample


class Coefficients(NamedTuple):
    """Each [B]; `time` is the network's noise input (c_noise)."""

    skip: Tensor
    out: Tensor
    into: Tensor
    time: Tensor


class Scheme(Protocol):
    """One column of EDM's table 1. sigmas are [B], float32 or float64."""

    @property
    def sigma_min(self) -> float: ...
    @property
    def sigma_max(self) -> float: ...
    def coefficients(self, sigma: Tensor) -> Coefficients: ...
    def loss_weight(self, sigma: Tensor) -> Tensor: ...
    def round_sigma(self, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class EDMScheme:
    """Unit variance at the network's input and target at every noise level."""

    sigma_data: float = 0.5
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def coefficients(self, sigma: Tensor) -> Coefficients:
        total = (sigma**2 + self.sigma_data**2).sqrt()
        return Coefficients(
            skip=(self.sigma_data / total) ** 2,
            out=sigma * self.sigma_data / total,
            into=1 / total,
            time=sigma.log() / 4,
        )

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """1 / c_out^2."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma

    def training_sigma(self, normal: Tensor, mean: float = -1.2, std: float = 1.2) -> Tensor:
        """Log-normal noise levels from standard normal draws."""
        return (normal * std + mean).exp()


@dataclass(frozen=True)
class VPScheme:
    """Networks trained as epsilon predictors of the linear VP process (DDPM++ of Song et al. 2021)."""

    vp: LinearVP = field(default_factory=LinearVP)
    steps: int = 1000  # the network's time is (steps - 1) t
    time_min: float = 1e-5

    @property
    def sigma_min(self) -> float:
        return self.vp.sigma(torch.tensor(self.time_min, dtype=torch.float64)).item()

    @property
    def sigma_max(self) -> float:
        return self.vp.sigma(torch.ones((), dtype=torch.float64)).item()

    def coefficients(self, sigma: Tensor) -> Coefficients:
        time = (self.steps - 1) * self.vp.time(sigma)
        return Coefficients(torch.ones_like(sigma), -sigma, torch.rsqrt(sigma**2 + 1), time)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma

    def training_sigma(self, uniform: Tensor) -> Tensor:
        """Levels at VP times uniform in [time_min, 1]."""
        return self.vp.sigma(1 + uniform * (self.time_min - 1))


@dataclass(frozen=True)
class VEScheme:
    """Networks of the variance-exploding process (NCSN++ of Song et al. 2021)."""

    sigma_min: float = 0.02
    sigma_max: float = 100.0

    def coefficients(self, sigma: Tensor) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, (sigma / 2).log())

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma

    def training_sigma(self, uniform: Tensor) -> Tensor:
        """Geometric between the bounds."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** uniform


@dataclass(frozen=True)
class IDDPMScheme:
    """Improved DDPM's epsilon predictors, defined at `steps` noise levels only; F may also give a variance, unused."""

    steps: int = 1000

    @cached_property
    def levels(self) -> Tensor:
        """[steps + 1] falling sigmas, as the released networks tabulate them (float32)."""
        return iddpm_levels(self.steps, torch.float32)

    @property
    def sigma_min(self) -> float:
        return self.levels[-2].item()

    @property
    def sigma_max(self) -> float:
        return self.levels[0].item()

    def coefficients(self, sigma: Tensor) -> Coefficients:
        index = nearest_index(sigma, self.levels.to(sigma.device))
        return Coefficients(
            torch.ones_like(sigma), -sigma, torch.rsqrt(sigma**2 + 1), (self.steps - 1 - index).to(sigma.dtype)
        )

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return nearest(sigma, self.levels.to(sigma.device))


class Preconditioned(nn.Module):
    """A network `body` made a denoiser.

    body(c_in x, c_noise [B], one-hot labels [B, classes] or None, augmentation labels or None) gives F; where F has
    more channels than x the first are used. `shape` is that of one image; `classes` 0 if the body is unconditional.
    has_text: captions take the place of labels, [B, L] tokens or encoded, and the body's `text` encodes them.
    """

    def __init__(
        self, body: nn.Module, shape: tuple[int, ...], scheme: Scheme, classes: int = 0, has_text: bool = False
    ) -> None:
        super().__init__()
        self.body, self.shape, self.scheme, self.classes, self.has_text = body, shape, scheme, classes, has_text

    @property
    def is_conditional(self) -> bool:
        return self.has_text or self.classes > 0

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """E[x0 | x] in float32 (float64 for a float64 body).

        x: [B, *shape] any float; sigma: [B]; labels: [B] int64, -1 for no class, or None for an unconditional body
        or unlabelled images of a conditional one.
        """
        if labels is not None and not self.is_conditional:
            raise ValueError("labels for a network without classes: pass None, or build it with the number of classes")
        inner = next((p.dtype for p in self.body.parameters()), torch.float32)
        outer = torch.float64 if inner == torch.float64 else torch.float32
        x, sigma = x.to(outer), sigma.to(outer)
        c = self.scheme.coefficients(sigma)
        hot = labels
        if labels is not None and not self.has_text:
            hot = one_hot(labels + 1, self.classes + 1)[:, 1:].to(inner)
        hints = None if augment_labels is None else augment_labels.to(inner)
        raw = self.body((per_sample(c.into, x) * x).to(inner), c.time.to(inner), hot, hints)
        return per_sample(c.skip, x) * x + per_sample(c.out, x) * raw[:, : x.shape[1]].to(outer)


def denoising_errors(
    net: Preconditioned,
    images: Tensor,
    sigma: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
    augment_labels: Tensor | None = None,
) -> Tensor:
    """[B, *shape] weighted squared errors lambda(sigma) (D(images + sigma noise; sigma) - images)^2 (EDM eq. 8)."""
    denoised = net(images + per_sample(sigma, images) * noise, sigma, labels, augment_labels)
    return per_sample(net.scheme.loss_weight(sigma), images) * (denoised - images) ** 2
