"""Mixtures of round Gaussians: the score, the denoiser and density ratios are known in closed form."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.core.rng import StepRng
from methods.core.types import At, LogWeight, Prediction


@dataclass(frozen=True)
class Mixture:
    """sum_k weights_k N(means_k, std^2 I), and its convolution with noise sigma.

    means: [K, D]; weights: [K], sum 1. Points x: [B, *shape] with D numbers each; sigma: [B].
    """

    means: Tensor
    std: float
    weights: Tensor

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[B] log density in nats of x = x0 + sigma * noise."""
        dimensions = self.means.shape[1]
        variance = self.std**2 + sigma**2
        return torch.logsumexp(self._log_joint(x, sigma), dim=1) - dimensions / 2 * torch.log(2 * math.pi * variance)

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x], shaped as x."""
        posterior = torch.softmax(self._log_joint(x, sigma), dim=1)
        kept = (self.std**2 / (self.std**2 + sigma**2))[:, None]
        return (kept * x.flatten(1) + (1 - kept) * posterior @ self._like(self.means, x)).view_as(x)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """grad_x log_density, shaped as x."""
        posterior = torch.softmax(self._log_joint(x, sigma), dim=1)
        pulled = posterior @ self._like(self.means, x) - x.flatten(1)
        return (pulled / (self.std**2 + sigma**2)[:, None]).view_as(x)

    def denoise(self, x: Tensor, at: At) -> Prediction:
        """The exact `Denoiser` of this distribution."""
        return Prediction(self.denoised(x, at.sigma.to(x.dtype)))

    def log_reverse(self, x_s: Tensor, x: Tensor, sigma_s: Tensor, sigma: Tensor) -> Tensor:
        """[B] log q(x_s | x), sigma_s < sigma: what a step of denoising has to draw from (DDGAN, figure 2)."""
        variance = sigma**2 - sigma_s**2
        step = -(x - x_s).flatten(1).square().sum(1) / (2 * variance)
        step = step - self.means.shape[1] / 2 * torch.log(2 * math.pi * variance)
        return self.log_density(x_s, sigma_s) + step - self.log_density(x, sigma)

    def sample(self, count: int, rng: StepRng) -> Tensor:
        """[count, D] independent points."""
        bounds = self.weights.cumsum(0)
        component = torch.searchsorted(bounds, rng.uniform(count).to(bounds) * bounds[-1], right=True)
        return self.means[component] + self.std * rng.normal(count, self.means.shape[1]).to(self.means)

    def _log_joint(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[B, K] log weights plus the exponents of the components."""
        offsets = x.flatten(1)[:, None, :] - self._like(self.means, x)
        squares = offsets.square().sum(2)
        return self._like(self.weights, x).log() - squares / (2 * (self.std**2 + sigma**2))[:, None]

    @staticmethod
    def _like(value: Tensor, x: Tensor) -> Tensor:
        return value.to(x.device, x.dtype)


def log_ratio(data: Mixture, model: Mixture) -> LogWeight:
    """log p_data(x; sigma) / p_model(x; sigma): what a perfect discriminator's logit would be."""

    def log_weight(x: Tensor, at: At) -> Tensor:
        sigma = at.sigma.to(x.dtype)
        return data.log_density(x, sigma) - model.log_density(x, sigma)

    return log_weight
