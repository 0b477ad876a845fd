"""Gaussian forward steps and their reversal given the clean image, in variance-preserving coordinates.

A step keeps a share `keep` of the signal's variance: x -> sqrt(keep) x + sqrt(1 - keep) noise. From x_0 to x_t that
share is alpha_bar_t; from x_s to x_t it is alpha_bar_t / alpha_bar_s = 1 - beta. Times need not be neighbours.
"""

from typing import NamedTuple

from torch import Tensor

from methods.core.shapes import per_sample


def diffuse(x: Tensor, keep: Tensor, noise: Tensor) -> Tensor:
    """sqrt(keep) x + sqrt(1 - keep) noise. x, noise: [B, ...]; keep: [B] in [0, 1]. DDPM eq. 2 and 4.

    keep may be more precise than x: near 1, float32 would lose the noise.
    """
    return _spread(keep.sqrt(), x) * x + _spread((1 - keep).sqrt(), x) * noise


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(coef_x0 x_0 + coef_xt x_t, variance I), s < t."""

    coef_x0: Tensor  # [B]
    coef_xt: Tensor  # [B]
    variance: Tensor  # [B]

    def mean(self, x0: Tensor, x_t: Tensor) -> Tensor:
        return _spread(self.coef_x0, x_t) * x0 + _spread(self.coef_xt, x_t) * x_t

    def sample(self, x0: Tensor, x_t: Tensor, noise: Tensor) -> Tensor:
        """Differentiable in x0 (reparametrised). Where the variance is 0 (s = 0), x0 itself."""
        return self.mean(x0, x_t) + _spread(self.variance.sqrt(), x_t) * noise


def posterior(alpha_bar_s: Tensor, beta: Tensor) -> Posterior:
    """The posterior over x_s of the step x_s -> x_t that keeps 1 - beta. DDPM eq. 6-7; both [B]."""
    spread = 1 - alpha_bar_s * (1 - beta)
    variance = beta * (1 - alpha_bar_s) / spread
    return Posterior(alpha_bar_s.sqrt() * beta / spread, (1 - beta).sqrt() * (1 - alpha_bar_s) / spread, variance)


def implicit_step(x0: Tensor, x_t: Tensor, alpha_bar_s: Tensor, alpha_bar_t: Tensor) -> Tensor:
    """x_s with the very noise that x_t holds if its image is x0. DDIM eq. 12 without fresh noise; alpha_bars [B]."""
    noise = (x_t - _spread(alpha_bar_t.sqrt(), x_t) * x0) / _spread((1 - alpha_bar_t).sqrt(), x_t)
    return diffuse(x0, alpha_bar_s, noise)


def _spread(value: Tensor, like: Tensor) -> Tensor:
    """[B] in any precision -> [B, 1, ..., 1] in that of `like`."""
    return per_sample(value.to(like), like)
