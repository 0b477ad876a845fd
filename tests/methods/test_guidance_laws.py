"""The algebra of guidance for every sampler and guide, on mixtures whose density ratio is known exactly.

Tolerances: a sampler adds guides in float64, so their order moves a point by rounding alone, 1e-9; an adaptive solver's
steps follow that rounding, 1e-6.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from methods.classifier_guidance import Classifier
from methods.core.density.mixtures import Mixture, log_ratio
from methods.core.guidance import Guide, classifier_free, constant, guided
from methods.core.process.chains import chain_of
from methods.core.process.noise import GeometricVE, LinearVP, SubVP, edm_grid, ve_grid
from methods.core.sampling.ancestral import ancestral, begin_chain, ddim
from methods.core.sampling.flow import begin, flow, grid_along, reverse_sde, sub_vp_path, ve_path, vp_path
from methods.core.sampling.samplers import LINEAR, VE, Churn, Path, follow, heun
from methods.core.types import At, DataSpec, Denoiser, LogWeight, Source, Wrap
from methods.discriminator_guidance import Discriminator, Use, density_ratio_guide

Sampler = Callable[[Denoiser, int], Tensor]  # of this many steps; its noise is always the same
COUNT = 24
SPREAD = 0.1  # of random weights: the networks' outputs vary as slowly as the densities
DATA = Mixture(torch.tensor([[0.7, 0.2], [-0.6, -0.3]]).double(), 0.2, torch.tensor([0.6, 0.4]).double())
MODEL = Mixture(torch.tensor([[0.5, 0.3], [-0.4, -0.4]]).double(), 0.3, torch.tensor([0.3, 0.7]).double())
VP = LinearVP()
LABELS = torch.arange(COUNT) % 2
IMAGES = torch.linspace(-1, 1, 2 * COUNT).double().view(COUNT, 2)


class Noise:
    """One stream for all rows, the same on every use; of points with as many numbers as the sampler draws."""

    def __init__(self, count: int) -> None:
        self.count, self.generator = count, torch.Generator().manual_seed(4)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.count, *shape, generator=self.generator, dtype=torch.float64)

    uniform = normal


def samplers(count: int, dimensions: int, images: Tensor) -> dict[str, Sampler]:
    """Every sampler."""

    def along(path: Path, alpha: float | None = 1.0) -> Sampler:
        def sample(denoise: Denoiser, steps: int) -> Tensor:
            if path is VE:  # even in its time, sigma^2, no step would be small enough
                sigmas = ve_grid(steps, 0.02, 60.0)
            else:
                sigmas = grid_along(path, steps if alpha else 4 * steps, 0.02, 60.0)
            return follow(denoise, Noise(count).normal(dimensions), sigmas, path, alpha)

        return sample

    def heuns(churn: float | None = None, source: Source | None = None) -> Sampler:
        def sample(denoise: Denoiser, steps: int) -> Tensor:
            rng = Noise(count)
            x, sigmas = begin(rng.normal(dimensions), edm_grid(steps, 0.02, 60.0), source)
            return heun(denoise, x, sigmas, rng, None if churn is None else Churn(churn))

        return sample

    def adaptive(path: Path) -> Sampler:
        def sample(denoise: Denoiser, steps: int) -> Tensor:
            return flow(
                denoise, 60 * Noise(count).normal(dimensions), path, 60.0, 0.02, 1e-2 if count == COUNT else 1e-4
            )

        return sample

    def stochastic(path: Path) -> Sampler:
        def sample(denoise: Denoiser, steps: int) -> Tensor:
            rng = Noise(count)
            sigmas = grid_along(path, 2 * steps, 0.02, 60.0)
            return reverse_sde(denoise, sigmas[0] * rng.normal(dimensions), sigmas, path, rng)

        return sample

    def chained(eta: float | None, source: Source | None = None) -> Sampler:
        def sample(denoise: Denoiser, steps: int) -> Tensor:
            rng, chain = Noise(count), chain_of("linear", 1000).spaced(str(4 * steps))
            x = rng.normal(dimensions)
            if source is not None:
                x, chain = begin_chain(source, x, chain)
            return ancestral(denoise, x, chain, rng, "large") if eta is None else ddim(denoise, x, chain, rng, eta)

        return sample

    vp, sub, ve = vp_path(VP), sub_vp_path(SubVP()), ve_path(GeometricVE())
    return {
        "heun": heuns(),
        "heun churn": heuns(10.0),
        "euler": along(vp, None),
        "path vp": along(vp),
        "path sub-vp": along(sub),
        "path ve": along(ve),
        "path sqrt": along(VE),
        "rk45": adaptive(LINEAR),
        "rk45 vp": adaptive(vp),
        "sde vp": stochastic(vp),
        "sde ve": stochastic(ve),
        "ancestral": chained(None),
        "ddim": chained(0.0),
        "ddim eta 1": chained(1.0),
        "sdedit": heuns(source=Source(images, 1.5)),
        "sdedit churn": heuns(10.0, Source(images, 1.5)),
        "sdedit chain": chained(None, Source(images, 1.5)),
    }


SAMPLERS = samplers(COUNT, 2, IMAGES)


def network(method: Any, spread: float) -> dict[str, nn.Module]:
    """With random weights; without spread, a constant output."""
    nets = method.build(DataSpec((2,), 2, 0.7))
    generator = torch.Generator().manual_seed(0)
    for net in nets.values():
        for parameter in net.double().requires_grad_(False).parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return nets


DISCRIMINATOR = Discriminator(body="mlp", width=16, depth=1)
CLASSIFIER = Classifier(net="mlp", width=16, depth=1)


def by_ratio(log_weight: LogWeight, weight: float) -> Wrap:
    return lambda denoise: guided(denoise, Guide(log_weight, constant(weight), is_density_ratio=True))


def by_network(method: Any, spread: float, **use: Any) -> Wrap:
    nets = network(method, spread)
    return lambda denoise: guided(denoise, method.guide(nets, LABELS, method.Use(**use)))


def by_class(other: Mixture, weight: float) -> Wrap:
    return lambda denoise: classifier_free(denoise, other.denoise, constant(weight))


# by name: the guide of a weight, and its blind sibling
GUIDES: dict[str, tuple[Callable[[float], Wrap], Wrap]] = {
    "ratio": (
        lambda weight: by_ratio(log_ratio(DATA, MODEL), weight),
        by_ratio(lambda x, at: 0 * x.sum(1) + at.sigma, 3.0),
    ),
    "discriminator": (
        lambda weight: by_network(DISCRIMINATOR, SPREAD, weight=weight, second_weight=weight),
        by_network(DISCRIMINATOR, 0.0, weight=3.0, second_weight=3.0, boost=True),
    ),
    "classifier": (
        lambda weight: by_network(CLASSIFIER, SPREAD, scale=weight),
        by_network(CLASSIFIER, 0.0, scale=3.0),
    ),
    "entropy": (
        lambda weight: by_network(CLASSIFIER, SPREAD, scale=weight, entropy_driven=True),
        by_network(CLASSIFIER, 0.0, scale=3.0, entropy_driven=True),
    ),
    "classifier-free": (lambda weight: by_class(DATA, weight), by_class(MODEL, 3.0)),
}
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


@every_sampler
@pytest.mark.parametrize("guide", GUIDES)
def test_a_constant_guide_and_one_without_weight_change_no_bit(name: str, guide: str) -> None:
    weighted, blind = GUIDES[guide]
    plain = SAMPLERS[name](MODEL.denoise, 4)
    assert torch.equal(SAMPLERS[name](blind(MODEL.denoise), 4), plain)
    assert torch.equal(SAMPLERS[name](weighted(0.0)(MODEL.denoise), 4), plain)
    assert not torch.equal(SAMPLERS[name](weighted(1.0)(MODEL.denoise), 4), plain)


@every_sampler
def test_guides_commute(name: str) -> None:
    wraps = [weighted(0.3) for weighted, _ in GUIDES.values()]
    forth, back = MODEL.denoise, MODEL.denoise
    for one, other in zip(wraps, reversed(wraps)):
        forth, back = one(forth), other(back)
    tolerance = 1e-6 if name.startswith("rk45") else 1e-9
    assert_close(SAMPLERS[name](forth, 6), SAMPLERS[name](back, 6), atol=tolerance, rtol=0)


@every_sampler
def test_a_guide_is_equal_in_exploding_and_in_preserving_coordinates(name: str) -> None:
    def log_odds(x_vp: Tensor, tau: Tensor) -> Tensor:
        return log_ratio(DATA, MODEL)(x_vp / VP.mean(tau)[:, None], At(VP.sigma(tau), 0))

    preserving = density_ratio_guide(log_odds, Use(1.5, 1.5, time_min=0.02, clip=0.0))
    exploding = Guide(
        log_ratio(DATA, MODEL), constant(1.5), sigma_min=preserving.sigma_min, sigma_max=preserving.sigma_max
    )
    one, other = (SAMPLERS[name](guided(MODEL.denoise, guide), 4) for guide in (preserving, exploding))
    assert_close(one, other, atol=1e-5, rtol=0)


LINE = 3000
LINE_DATA = Mixture(torch.tensor([[0.8], [-0.8]]).double(), 0.3, torch.tensor([0.7, 0.3]).double())
LINE_MODEL = Mixture(torch.tensor([[0.5], [-0.9]]).double(), 0.4, torch.tensor([0.3, 0.7]).double())
LINE_SAMPLERS = {
    name: sampler
    for name, sampler in samplers(LINE, 1, LINE_DATA.means[torch.arange(LINE) % 2]).items()
    if not name.startswith("sdedit")  # its distribution is not the data's
}


def divergence(x: Tensor) -> float:
    """KL from the samples' distribution to the data's, in nats, over 20 bins; by chance alone 19 / (2 LINE) = 0.003."""
    edges = torch.linspace(-1.9, 1.9, 19, dtype=torch.float64)
    below = torch.special.ndtr((edges[:, None] - LINE_DATA.means[:, 0]) / LINE_DATA.std) @ LINE_DATA.weights
    wanted = torch.cat([below[:1], below.diff(), 1 - below[-1:]])
    computed = torch.bucketize(x[:, 0].contiguous(), edges).bincount(minlength=20) / LINE
    return float(torch.special.xlogy(computed, computed / wanted).sum())


@pytest.mark.parametrize("name", LINE_SAMPLERS)
def test_with_the_exact_discriminator_the_guided_law_is_the_datas_up_to_discretisation(name: str) -> None:
    def error(denoise: Denoiser) -> float:
        return divergence(LINE_SAMPLERS[name](denoise, 25))

    exact = Guide(log_ratio(LINE_DATA, LINE_MODEL), constant(1.0))
    floor, unguided = error(LINE_DATA.denoise), error(LINE_MODEL.denoise)
    reached = error(guided(LINE_MODEL.denoise, exact))
    print(f"{name}: {unguided=:.4f} {reached=:.4f} {floor=:.4f}")
    assert reached < floor + 0.01
    assert floor + 0.01 < 0.2 * unguided
