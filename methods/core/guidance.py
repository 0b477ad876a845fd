"""Guides steer any denoiser: each adds weight * grad_x log w(x; sigma) to the score (discriminator guidance, eq. 6)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from methods.core.types import At, Denoiser, LogWeight, Prediction

OUTSIDE = 1e7  # log density ratio of a sample outside its guide's window: never taken for a bad one

WeightLaw: TypeAlias = Callable[[At, Tensor], Tensor]  # where, and the guide's own log-weights [B] -> weights [B]


def constant(weight: float) -> WeightLaw:
    """The same weight for every sample, always."""
    return lambda at, log_weight: torch.full_like(log_weight, weight)


def boosted(law: WeightLaw, factor: float = 2.0, period: int = 2) -> WeightLaw:
    """`factor` times as much, every `period`-th step, for samples that a density ratio below one calls unlikely.

    First-order evaluations only (discriminator guidance, appendix on adaptive weights).
    """

    def weight(at: At, log_weight: Tensor) -> Tensor:
        weights = law(at, log_weight)
        if at.order != 1 or at.step % period:
            return weights
        return torch.where(log_weight < 0, factor * weights, weights)

    return weight


@dataclass(frozen=True)
class Guide:
    """One guide, as one sampling run uses it. Its label, if any, is bound in `log_weight`."""

    log_weight: LogWeight
    weight: WeightLaw
    sigma_min: float = 0.0  # it acts on samples with sigma in [sigma_min, sigma_max]
    sigma_max: float = math.inf
    orders: tuple[int, ...] = (1, 2)  # and in these evaluations of a solver's step; in others it is not called
    is_density_ratio: bool = False  # then a prediction carries its log-weights as log_ratio
    together: bool = False  # the smallest sigma of the batch decides for all (the official code); else each for itself

    def inside(self, at: At) -> Tensor:
        """[B] which samples it acts on."""
        sigma = at.sigma.min().expand_as(at.sigma) if self.together else at.sigma
        return (sigma >= self.sigma_min) & (sigma <= self.sigma_max)


def guided(denoise: Denoiser, *guides: Guide) -> Denoiser:
    """`denoise`, its predictions pushed by all guides at once: one backward pass for their weighted sum.

    A guide outside its window or its orders costs nothing. A guide that says the same of every x changes no bit.
    """

    def guided_denoise(x: Tensor, at: At) -> Prediction:
        prediction = denoise(x, at)
        present = [(guide, guide.inside(at)) for guide in guides if at.order in guide.orders]
        if not present:
            return prediction
        push, log_ratio = _pull(x, at, present)
        if prediction.push is not None:
            push = prediction.push if push is None else prediction.push + push
        if prediction.log_ratio is not None:
            log_ratio = prediction.log_ratio if log_ratio is None else prediction.log_ratio + log_ratio
        return prediction._replace(push=push, log_ratio=log_ratio)

    return guided_denoise


def _pull(x: Tensor, at: At, present: list[tuple[Guide, Tensor]]) -> tuple[Tensor | None, Tensor | None]:
    """The summed gradient, None if there is nothing to add, and the summed log density ratios.

    Differentiable for a caller that differentiates: a likelihood needs the divergence of the push.
    """
    log_ratio: Tensor | None = None
    is_differentiated = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        x = x if is_differentiated else x.detach().requires_grad_()
        total = x.new_zeros(())
        for guide, inside in present:
            said = at.sigma.new_full(at.sigma.shape, OUTSIDE)
            if inside.any():
                log_weight = guide.log_weight(x, at)
                weights = guide.weight(at, log_weight.detach())
                total = total + torch.where(inside, weights * log_weight, 0).sum().to(total)
                said = torch.where(inside, log_weight.detach(), OUTSIDE)
            if guide.is_density_ratio:
                log_ratio = said if log_ratio is None else log_ratio + said
        if not total.requires_grad:
            return None, log_ratio
        push = torch.autograd.grad(total, x, allow_unused=True, create_graph=is_differentiated)[0]
    return push, log_ratio
