"""Guidance of a denoiser: each guide adds weight * grad_x log w(x; sigma) to the score (discriminator guidance, eq. 6).

Classifier-free guidance has no log w: it combines two denoisers (at the end of this file).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from methods.core.checks import require
from methods.core.shapes import per_sample
from methods.core.types import At, Denoiser, Prediction

LOG_RATIO_OUTSIDE = 1e7  # of a sample outside its guide's window: above any threshold for bad samples

WeightLaw: TypeAlias = Callable[[At, Tensor], Tensor]  # (sampler state, the guide's own log-weights [B]) -> weights [B]
Interval: TypeAlias = tuple[float, float]  # noise levels (low, high], in image units
Trunk: TypeAlias = Callable[[Tensor, At], Any]  # a frozen network, whose output several guides may share


def constant(weight: float) -> WeightLaw:
    """The same weight for every sample, always."""
    return lambda at, log_weight: torch.full_like(log_weight, weight)


def boosted(law: WeightLaw, factor: float = 2.0, period: int = 2) -> WeightLaw:
    """`factor` times as much, every `period`-th step, for samples whose density ratio is below one.

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


def within(law: WeightLaw, interval: Interval | None) -> WeightLaw:
    """`law` in the steps of a solver that begin at a noise level in (low, high], 0 in others; None: in all.

    All evaluations of a step are guided alike, so that its slopes belong to one field (Kynkäänniemi et al. 2024,
    arXiv:2404.07724). Where there are no steps, the level of the evaluation decides.
    """
    if interval is None:
        return law
    low, high = interval

    def weight(at: At, log_weight: Tensor) -> Tensor:
        begins = at.sigma if at.begins is None else torch.full_like(at.sigma, at.begins)
        return torch.where((begins > low) & (begins <= high), law(at, log_weight), 0)

    return weight


def check_interval(interval: Interval | None, name: str) -> None:
    """ValueError for an interval without noise levels."""
    is_one = interval is None or 0 <= interval[0] < interval[1]
    require(is_one, name, interval, "two noise levels, the lower first,")


@dataclass(frozen=True)
class Guide:
    """One guide, as one sampling run uses it. Its label, if any, is bound in `log_weight`.

    ValueError if sigma_min is not below sigma_max, or an order is neither 1 nor 2.
    """

    log_weight: Callable[[Any, At], Tensor]  # a LogWeight of x; with a trunk, of the trunk's output
    weight: WeightLaw
    sigma_min: float = 0.0  # the guide acts on samples with sigma in [sigma_min, sigma_max]
    sigma_max: float = math.inf
    orders: tuple[int, ...] = (1, 2)  # and in these evaluations of a solver's step only
    is_density_ratio: bool = False  # True: its log-weights become the prediction's log_ratio
    together: bool = False  # True: the batch's smallest sigma decides for all samples (official code)
    matched: bool = False  # True: its gradient is rescaled to the norm of the other guides' ("norm scaling")
    trunk: Trunk | None = None  # evaluated once for all guides that have an equal one

    def __post_init__(self) -> None:
        require(self.sigma_min < self.sigma_max, "sigma_min", self.sigma_min, f"less than sigma_max, {self.sigma_max},")
        known = bool(set(self.orders) <= {1, 2})
        require(known, "orders", self.orders, "some of (1, 2)")

    def inside(self, at: At) -> Tensor:
        """[B] bool: the samples that the guide acts on."""
        sigma = at.sigma.min().expand_as(at.sigma) if self.together else at.sigma
        return (sigma >= self.sigma_min) & (sigma <= self.sigma_max)

    def weigh(self, x: Tensor, at: At, outputs: dict[Trunk, Any]) -> Tensor:
        """[B] log-weights of x [B, *shape]. outputs: those of the trunks evaluated at this x so far; extended here."""
        if self.trunk is None:
            return self.log_weight(x, at)
        if self.trunk not in outputs:
            outputs[self.trunk] = self.trunk(x, at)
        return self.log_weight(outputs[self.trunk], at)


def guided(denoise: Denoiser, *guides: Guide) -> Denoiser:
    """`denoise` with the guidance score of all guides: one backward pass for their weighted sum.

    Guides of one trunk share its forward pass too. A guide outside its window or its orders costs nothing. A guide
    whose log-weight is constant in x changes no bit. ValueError if every guide is `matched`.
    """
    if guides and all(guide.matched for guide in guides):
        raise ValueError("norm_scaling: there is no other guide whose norm to match; leave it out, or add a classifier")

    def guided_denoise(x: Tensor, at: At) -> Prediction:
        prediction = denoise(x, at)
        present = [(guide, guide.inside(at)) for guide in guides if at.order in guide.orders]
        if not present:
            return prediction
        score, log_ratio = _score_of(x, at, present)
        if prediction.guidance_score is not None:
            score = prediction.guidance_score if score is None else prediction.guidance_score + score
        if prediction.log_ratio is not None:
            log_ratio = prediction.log_ratio if log_ratio is None else prediction.log_ratio + log_ratio
        return prediction._replace(guidance_score=score, log_ratio=log_ratio)

    return guided_denoise


class _Term(NamedTuple):
    """One guide's term for a batch, [B] each."""

    guide: Guide
    log_weight: Tensor  # with the graph of its gradient; 0 outside the window
    weights: Tensor


def _score_of(x: Tensor, at: At, present: list[tuple[Guide, Tensor]]) -> tuple[Tensor | None, Tensor | None]:
    """The summed gradient [B, *shape], None if there is nothing to add, and the summed log density ratios [B].

    Differentiable where x requires gradients: a likelihood needs the divergence of the guidance score.
    """
    log_ratio: Tensor | None = None
    terms: list[_Term] = []
    outputs: dict[Trunk, Any] = {}
    is_differentiated = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        x = x if is_differentiated else x.detach().requires_grad_()
        for guide, inside in present:
            ratio = at.sigma.new_full(at.sigma.shape, LOG_RATIO_OUTSIDE)
            if inside.any():
                log_weight = guide.weigh(x, at, outputs)
                weights = guide.weight(at, log_weight.detach())
                terms.append(_Term(guide, torch.where(inside, log_weight, 0), torch.where(inside, weights, 0)))
                ratio = torch.where(inside, log_weight.detach(), LOG_RATIO_OUTSIDE)
            if guide.is_density_ratio:
                log_ratio = ratio if log_ratio is None else log_ratio + ratio
        if any(term.guide.matched for term in terms):
            return _matched(x, terms, is_differentiated), log_ratio
        total = x.new_zeros(())
        for _, log_weight, weights in terms:
            total = total + (weights * log_weight).sum().to(total)
        if not total.requires_grad:
            return None, log_ratio
        score = torch.autograd.grad(total, x, allow_unused=True, create_graph=is_differentiated)[0]
    return score, log_ratio


def _matched(x: Tensor, terms: list[_Term], is_differentiated: bool) -> Tensor:
    """A backward pass for each guide, so that the norms of gradients can be matched (ADM-G++, "Scaling")."""
    gradients = [_gradient(term.log_weight, x, is_differentiated) for term in terms]
    others = sum((g for g, term in zip(gradients, terms) if not term.guide.matched), torch.zeros_like(x))
    score = torch.zeros_like(x)
    for gradient, term in zip(gradients, terms):
        weights = term.weights
        if term.guide.matched:
            length = _length(gradient)
            weights = torch.where(length > 0, weights * _length(others) / length, 0)
        score = score + per_sample(weights, x).to(x) * gradient
    return score


def _gradient(log_weight: Tensor, x: Tensor, is_differentiated: bool) -> Tensor:
    if not log_weight.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(
        log_weight.sum(), x, allow_unused=True, retain_graph=True, create_graph=is_differentiated
    )
    return torch.zeros_like(x) if gradient is None else gradient


def _length(gradient: Tensor) -> Tensor:
    """[B] Euclidean norm of each image's values."""
    return gradient.flatten(1).norm(dim=1)


def classifier_free(
    conditional: Denoiser, unconditional: Denoiser, weight: WeightLaw, channels: int | None = None
) -> Denoiser:
    """(1 + w) conditional - w unconditional predictions (Ho and Salimans 2022, eq. 6; DiT's scale is 1 + w).

    The difference enters x0 and is clipped with it; the variance is the conditional prediction's. Where all weights
    are 0, `unconditional` is not called. channels: only so many are guided, the first ones; None: all.
    """

    def denoise(x: Tensor, at: At) -> Prediction:
        prediction = conditional(x, at)
        weights = weight(at, torch.zeros_like(at.sigma))
        if not weights.any():
            return prediction
        x0, less = prediction.x0, unconditional(x, at).x0
        difference = per_sample(weights, x).to(x0) * (x0 - less)
        if channels is not None:
            difference[:, channels:] = 0
        return prediction._replace(x0=x0 + difference)

    return denoise
