"""Guides steer any denoiser: each adds weight * grad_x log w(x; sigma) to the score (discriminator guidance, eq. 6).

Classifier-free guidance is no such guide: it has no log w, but two denoisers (at the end of this file).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from methods.core.checks import require
from methods.core.shapes import per_sample
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


def switched(early: WeightLaw, late: WeightLaw, sigma: float) -> WeightLaw:
    """`late` at noise levels below sigma, `early` from there on (ADM-G++)."""

    def weight(at: At, log_weight: Tensor) -> Tensor:
        return torch.where(at.sigma < sigma, late(at, log_weight), early(at, log_weight))

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
    matched: bool = False  # its gradient is made as long as that of the other guides, before weights ("norm scaling")

    def __post_init__(self) -> None:
        require(self.sigma_min < self.sigma_max, "sigma_min", self.sigma_min, f"less than sigma_max, {self.sigma_max},")
        known = bool(set(self.orders) <= {1, 2})
        require(known, "orders", self.orders, "some of (1, 2)")

    def inside(self, at: At) -> Tensor:
        """[B] which samples it acts on."""
        sigma = at.sigma.min().expand_as(at.sigma) if self.together else at.sigma
        return (sigma >= self.sigma_min) & (sigma <= self.sigma_max)


def guided(denoise: Denoiser, *guides: Guide) -> Denoiser:
    """`denoise`, its predictions pushed by all guides at once: one backward pass for their weighted sum.

    A guide outside its window or its orders costs nothing. A guide that says the same of every x changes no bit.
    """
    if guides and all(guide.matched for guide in guides):
        raise ValueError("norm_scaling: no other guide's gradient to be as long as; leave it out, or add a classifier")

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


class _Said(NamedTuple):
    """What one guide says of a batch, [B] each."""

    guide: Guide
    log_weight: Tensor  # with the graph of its gradient; 0 outside the window
    weights: Tensor


def _pull(x: Tensor, at: At, present: list[tuple[Guide, Tensor]]) -> tuple[Tensor | None, Tensor | None]:
    """The summed gradient, None if there is nothing to add, and the summed log density ratios.

    Differentiable for a caller that differentiates: a likelihood needs the divergence of the push.
    """
    log_ratio: Tensor | None = None
    heard: list[_Said] = []
    is_differentiated = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        x = x if is_differentiated else x.detach().requires_grad_()
        for guide, inside in present:
            said = at.sigma.new_full(at.sigma.shape, OUTSIDE)
            if inside.any():
                log_weight = guide.log_weight(x, at)
                weights = guide.weight(at, log_weight.detach())
                heard.append(_Said(guide, torch.where(inside, log_weight, 0), torch.where(inside, weights, 0)))
                said = torch.where(inside, log_weight.detach(), OUTSIDE)
            if guide.is_density_ratio:
                log_ratio = said if log_ratio is None else log_ratio + said
        if any(said.guide.matched for said in heard):
            return _matched(x, heard, is_differentiated), log_ratio
        total = x.new_zeros(())
        for _, log_weight, weights in heard:
            total = total + (weights * log_weight).sum().to(total)
        if not total.requires_grad:
            return None, log_ratio
        push = torch.autograd.grad(total, x, allow_unused=True, create_graph=is_differentiated)[0]
    return push, log_ratio


def _matched(x: Tensor, heard: list[_Said], is_differentiated: bool) -> Tensor:
    """A backward pass for each guide, so that gradients can be compared (ADM-G++, "Scaling")."""
    gradients = [_gradient(said.log_weight, x, is_differentiated) for said in heard]
    others = sum((g for g, said in zip(gradients, heard) if not said.guide.matched), torch.zeros_like(x))
    push = torch.zeros_like(x)
    for gradient, said in zip(gradients, heard):
        weights = said.weights
        if said.guide.matched:
            length = _length(gradient)
            weights = torch.where(length > 0, weights * _length(others) / length, 0)
        push = push + per_sample(weights, x).to(x) * gradient
    return push


def _gradient(log_weight: Tensor, x: Tensor, is_differentiated: bool) -> Tensor:
    if not log_weight.requires_grad:
        return torch.zeros_like(x)
    gradient = torch.autograd.grad(
        log_weight.sum(), x, allow_unused=True, retain_graph=True, create_graph=is_differentiated
    )[0]
    return torch.zeros_like(x) if gradient is None else gradient


def _length(gradient: Tensor) -> Tensor:
    """[B] Euclidean, over all of an image."""
    return gradient.flatten(1).norm(dim=1)


def classifier_free(conditional: Denoiser, unconditional: Denoiser, weight: WeightLaw) -> Denoiser:
    """(1 + weight) times what a class adds (Ho and Salimans 2022, eq. 6; their w, DiT's scale less one).

    It is what the networks say, so it enters x0 and is clipped with it; the variance is the conditional one's. Where
    all weights are 0, the second network is not asked.
    """

    def denoise(x: Tensor, at: At) -> Prediction:
        said = conditional(x, at)
        weights = weight(at, torch.zeros_like(at.sigma))
        if not weights.any():
            return said
        less = unconditional(x, at).x0
        return said._replace(x0=said.x0 + per_sample(weights, x).to(said.x0) * (said.x0 - less))

    return denoise
