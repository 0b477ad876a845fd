"""Score SDEs: the flow by adaptive steps, the reverse SDE, and starts from an image, on known distributions."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from methods.core.density.mixtures import Mixture
from methods.core.process.chains import chain_of
from methods.core.process.noise import GeometricVE, LinearVP, SubVP, edm_grid
from methods.core.rng import ImageRng, SeededRng, sample_tiles
from methods.core.sampling.ancestral import begin_chain
from methods.core.sampling.flow import begin, flow, grid_along, reverse_sde, sub_vp_path, ve_path, vp_path
from methods.core.sampling.samplers import LINEAR, Path, heun
from methods.core.types import At, DataSpec, Prediction, Source, Wrap, unwrapped
from methods.ddpm import DDPM
from methods.edm import EDM
from methods.iddpm import IDDPM

STD, TOP = 0.5, 50.0
POINT = Mixture(torch.zeros(1, 2, dtype=torch.float64), STD, torch.ones(1, dtype=torch.float64))
NOISE = torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PATHS = {"edm": LINEAR, "vp": vp_path(LinearVP()), "sub-vp": sub_vp_path(SubVP()), "ve": ve_path(GeometricVE())}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
POINTS = DataSpec((2,), 3, 0.7)
SMALL = EDM(net="mlp", width=16, depth=1)


@every_path
def test_times_and_slopes_of_a_path_are_those_of_its_noise_level_and_scale(path: Path) -> None:
    t = path.time(torch.tensor([0.05, 0.7, 3.0, 40.0], dtype=torch.float64)).requires_grad_()
    assert_close(path.sigma(t), torch.tensor([0.05, 0.7, 3.0, 40.0], dtype=torch.float64))
    for value, slope in ((path.sigma, path.sigma_slope), (path.scale, path.scale_slope)):
        (computed,) = torch.autograd.grad((value(t) + 0 * t).sum(), t)
        assert_close(computed, slope(t).detach())


def test_sub_vp_states_have_the_processs_mean_and_spread() -> None:
    t, sub, path = torch.linspace(0.05, 1, 9, dtype=torch.float64), SubVP(), PATHS["sub-vp"]
    assert_close(path.scale(t) * path.sigma(t), sub.std(t))
    spread = (2 * path.sigma(t) * path.sigma_slope(t)).sqrt() * path.scale(t)
    assert_close(spread, sub.diffusion(t))


@every_path
def test_the_adaptive_flow_ends_where_the_exact_one_does(path: Path) -> None:
    exact = NOISE * TOP * STD / math.sqrt(STD**2 + TOP**2)
    computed = flow(POINT.denoise, NOISE * TOP, path, TOP, 0.002)
    assert_close(computed, exact, atol=3e-4, rtol=0)  # the last step, from 0.002 to 0, is Euler's
    assert (flow(POINT.denoise, NOISE * TOP, path, TOP, 0.002, 1e-2) - exact).abs().max() > (
        computed - exact
    ).abs().max()


@pytest.mark.parametrize("name", ["vp", "sub-vp", "ve"])
def test_the_reverse_sde_leaves_the_law_of_the_data(name: str) -> None:
    count, path = 4000, PATHS[name]
    sigmas = grid_along(path, 200, 0.01, TOP)
    x = reverse_sde(POINT.denoise, sigmas[0] * Shared(count).normal(2), sigmas, path, Shared(count, 1))
    assert abs(float(x.std()) - STD) < 0.02  # four standard errors are 0.016


class Shared:
    """One stream for all rows: faster than one for each."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.generator = count, torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.count, *shape, generator=self.generator, dtype=torch.float64)

    uniform = normal


def test_a_start_from_images_keeps_the_levels_below_its_own() -> None:
    images, grid = torch.linspace(-1, 1, 64).double().view(32, 2), edm_grid(10)
    x, left = begin(NOISE, grid, Source(images, 0.3))
    assert torch.equal(x, images + 0.3 * NOISE)
    assert left[0] == 0.3
    assert torch.equal(left[1:], grid[grid < 0.3])
    x, left = begin(NOISE, grid)
    assert torch.equal(x, NOISE * grid[0])
    assert torch.equal(left, grid)


def test_a_chain_starts_from_images_at_the_state_of_that_level() -> None:
    chain, images = chain_of("linear", 1000), torch.ones(32, 2, dtype=torch.float64)
    x, left = begin_chain(Source(images, 0.3), NOISE, chain)
    assert_close(left.sigma[-1].item(), 0.3, atol=5e-3, rtol=0)
    assert torch.equal(left.steps, torch.arange(len(left)))
    assert_close(x * (1 + left.sigma[-1] ** 2).sqrt(), images + left.sigma[-1] * NOISE)


def test_the_more_noise_the_less_is_left_of_the_source() -> None:
    source = torch.full((32, 2), 1.2, dtype=torch.float64)

    def distance(sigma: float) -> float:
        x, left = begin(NOISE, edm_grid(40), Source(source, sigma))
        return float((heun(POINT.denoise, x, left) - source).norm(dim=1).mean())

    distances = [distance(sigma) for sigma in (0.01, 0.1, 0.5, 5.0)]
    assert distances == sorted(distances)
    assert distances[0] < 0.05


MODELS = {"edm": SMALL, "ddpm": DDPM(net="mlp", steps=40, width=16, depth=1),
          "iddpm": IDDPM(net="mlp", steps=40, width=16, depth=1)}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_diffusion_samples_from_a_source(name: str) -> None:
    method = MODELS[name]
    nets, sampling = method.build(POINTS), method.Sampling() if name == "edm" else method.Sampling(spacing="10")
    images = torch.linspace(-1, 1, 12).view(6, 2)

    def sample(source: Source | None, wrap: Wrap = unwrapped) -> Tensor:
        return method.sample(nets, sampling, torch.arange(6) % 3, SeededRng(range(6)), wrap, source)

    assert sample(Source(images, 0.5)).shape == (6, 2)
    assert not torch.equal(sample(Source(images, 0.5)), sample(None))
    guided_images = sample(
        Source(images, 0.5), lambda denoise: lambda x, at: denoise(x, at)._replace(guidance_score=torch.ones_like(x))
    )
    assert not torch.equal(guided_images, sample(Source(images, 0.5)))
    with pytest.raises(ValueError, match=r"source\.sigma: 1000\.0 came"):
        sample(Source(images, 1000.0))
    with pytest.raises(ValueError, match=r"source\.images: shape \[3, 2\] came"):
        sample(Source(images[:3], 0.5))


@pytest.mark.parametrize("solver", ["heun", "euler", "rk45", "sde"])
@pytest.mark.parametrize("process", ["edm", "vp", "sub-vp", "ve"])
def test_edm_samples_by_every_solver_along_every_process(solver, process) -> None:
    """To the distribution of its fresh network: the best linear denoiser, that of a round Gaussian."""
    nets = SMALL.build(POINTS)
    sampling = EDM.Sampling(steps=200, solver=solver, process=process, tolerance=1e-3)
    rng: ImageRng = SeededRng(range(64))
    x = SMALL.sample(nets, sampling, torch.arange(64) % 3, rng)
    assert x.dtype == torch.float32
    assert abs(float(x.std()) - 0.7) < 0.15
    if solver != "sde":
        start = SeededRng(range(64)).normal(2)
        assert_close(x, start * 0.7, atol=0.05, rtol=0.15 if solver == "euler" else 0.05)


def test_rk45_takes_steps_until_its_tolerance_is_met() -> None:
    def calls(tolerance: float) -> int:
        seen: list[At] = []

        def noted(x: Tensor, at: At) -> Prediction:
            seen.append(at)
            return POINT.denoise(x, at)

        sampling = EDM.Sampling(solver="rk45", process="vp", tolerance=tolerance)
        SMALL.sample(SMALL.build(POINTS), sampling, None, SeededRng(range(2)), lambda denoise: noted)
        return len(seen)

    assert calls(1e-2) < calls(1e-4) < calls(1e-6)


def test_the_adaptive_solvers_image_is_the_same_in_any_range() -> None:
    """Its step size is chosen for a whole tile, and a tile does not depend on the requested range."""
    nets, sampling = SMALL.build(POINTS), EDM.Sampling(solver="rk45", tolerance=1e-2)

    def images(seeds: range) -> Tensor:
        return torch.cat(list(sample_tiles(lambda _, rng: SMALL.sample(nets, sampling, None, rng), seeds, None)))

    assert torch.equal(images(range(90, 130)), images(range(200))[90:130])


@pytest.mark.parametrize(
    "settings",
    [{"solver": "heum"}, {"process": "vpp"}, {"tolerance": 0.0}, {"process": "vp", "rho": 5.0},
     {"churn": 3.0, "solver": "rk45"}, {"boost_churn": 3.0, "solver": "sde"}],
)  # fmt: skip
def test_impossible_solvers_are_named(settings) -> None:
    with pytest.raises(ValueError, match=f"{list(settings)[-1]}: .* came, .* wanted"):
        EDM.Sampling(**settings)
