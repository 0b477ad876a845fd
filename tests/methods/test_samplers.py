"""Solvers against flows known in closed form, and the maps between noise levels and times."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from methods.core.density.mixtures import Mixture
from methods.core.process.noise import (
    CosineVP,
    LinearVP,
    edm_grid,
    iddpm_grid,
    log_uniform_sigma,
    ve_grid,
    vp_between,
    vp_grid,
)
from methods.core.rng import SeededRng
from methods.core.sampling.samplers import LINEAR, VE, BoostedChurn, Churn, Path, follow, heun, vp_scaled, vp_schedule
from methods.core.types import At, Denoiser, Prediction

STD = 0.5
POINT = Mixture(torch.zeros(1, 2, dtype=torch.float64), STD, torch.ones(1, dtype=torch.float64))
NOISE = torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def exact_flow(noise: Tensor, sigma_max: float) -> Tensor:
    """The ODE's end point from noise * sigma_max for Gaussian data: noise times the ratio of standard deviations."""
    return noise * sigma_max * STD / math.sqrt(STD**2 + sigma_max**2)


def heun_error(steps: int) -> float:
    grid = edm_grid(steps, sigma_max=20.0)
    return (heun(POINT.denoise, NOISE * grid[0], grid) - exact_flow(NOISE, 20.0)).abs().max().item()


def follow_error(steps: int, path: Path, alpha: float | None) -> float:
    computed = follow(POINT.denoise, NOISE, edm_grid(steps, sigma_max=20.0), path, alpha)
    return (computed - exact_flow(NOISE, 20.0)).abs().max().item()


def test_heun_error_falls_fourfold_when_steps_double():
    assert 3.0 < heun_error(40) / heun_error(80) < 5.0


def test_euler_error_falls_twofold_when_steps_double():
    assert 1.7 < follow_error(80, LINEAR, None) / follow_error(160, LINEAR, None) < 2.3


@pytest.mark.parametrize("alpha", [0.5, 2 / 3, 1.0])
def test_wherever_the_second_evaluation_lies_the_solver_is_of_second_order(alpha: float):
    assert follow_error(40, LINEAR, alpha) / follow_error(80, LINEAR, alpha) > 3.0


@pytest.mark.parametrize("path", [VE, vp_schedule(LinearVP()), vp_scaled(vp_schedule(LinearVP())), vp_scaled(LINEAR)])
def test_every_path_leads_to_the_same_place(path: Path):
    assert follow_error(400, path, 1.0) < 3e-3


def test_following_the_straight_path_is_heuns_sampler():
    grid = edm_grid(12)
    assert_close(follow(POINT.denoise, NOISE, grid), heun(POINT.denoise, NOISE * grid[0], grid), atol=1e-12, rtol=0)


def test_heun_calls_the_network_twice_per_step_but_once_in_the_last():
    calls: list[At] = []

    def counted(x: Tensor, at: At) -> Prediction:
        calls.append(at)
        return POINT.denoise(x, at)

    heun(counted, NOISE, edm_grid(7))
    assert len(calls) == 2 * 7 - 1
    assert [at.order for at in calls] == [1, 2] * 6 + [1]
    assert [at.step for at in calls] == [step for step in range(7) for _ in range(2)][:-1]


def test_one_step_is_the_denoised_image():
    grid = edm_grid(1)
    assert_close(
        heun(POINT.denoise, NOISE * 80, grid),
        POINT.denoised(NOISE * 80, torch.full((32,), 80.0, dtype=torch.float64)),
        atol=1e-12,
        rtol=0,
    )


def test_churn_does_not_change_the_distribution_of_the_samples():
    count = 4000
    rng = SeededRng(range(count))
    grid = edm_grid(40, sigma_max=20.0)
    x = heun(POINT.denoise, rng.normal(2).double() * grid[0], grid, rng, Churn(20.0))
    assert abs(x.std().item() - STD) < 4 * STD / math.sqrt(2 * 2 * count)


def test_zero_churn_changes_nothing_but_still_draws_its_noise():
    grid, rng = edm_grid(9), SeededRng(range(32))
    still = heun(POINT.denoise, NOISE * grid[0], grid, rng, Churn(0.0))
    assert torch.equal(still, heun(POINT.denoise, NOISE * grid[0], grid))
    untouched = SeededRng(range(32))
    for _ in range(9):
        untouched.normal(2)
    assert torch.equal(rng.normal(2), untouched.normal(2))


def test_boosted_churn_adds_noise_only_where_the_log_ratio_is_negative():
    law = BoostedChurn(Churn(1.0, sigma_max=50.0), churn=4.0, period=5)
    at = At(torch.full((3,), 10.0, dtype=torch.float64), 5)
    doubt = torch.tensor([-1.0, 0.0, 2.0])
    assert law(at, doubt).churn.tolist() == [4.0, 1.0, 1.0]
    assert law(at._replace(step=6), doubt).churn.tolist() == [1.0, 1.0, 1.0]
    assert law(at, None).churn.tolist() == [1.0, 1.0, 1.0]
    assert law(at._replace(sigma=at.sigma * 10), doubt).churn.tolist() == [0.0, 0.0, 0.0]


def test_churn_without_random_numbers_is_refused():
    with pytest.raises(ValueError, match="rng"):
        heun(POINT.denoise, NOISE, edm_grid(3), churn=Churn(1.0))


def test_float32_networks_do_not_cost_the_state_its_precision():
    def coarse(denoise: Denoiser) -> Denoiser:
        return lambda x, at: Prediction(denoise(x.float(), at).x0)

    grid = edm_grid(18)
    assert heun(coarse(POINT.denoise), NOISE.float(), grid).dtype == torch.float64


@pytest.mark.parametrize("vp", [LinearVP(), vp_between(0.01, 90.0), CosineVP()])
def test_the_time_of_a_noise_level_is_the_inverse_of_the_noise_level_of_a_time(vp: LinearVP | CosineVP):
    t = torch.linspace(1e-5, 0.999, 400, dtype=torch.float64)
    assert_close(vp.time(vp.sigma(t)), t, atol=1e-12, rtol=1e-9)
    assert_close(vp.std(t) / vp.mean(t), vp.sigma(t), atol=0, rtol=1e-9)
    assert_close(vp.std(t) ** 2 + vp.mean(t) ** 2, torch.ones_like(t), atol=1e-12, rtol=0)


def test_a_vp_process_is_determined_by_its_end_points():
    ends = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    assert_close(vp_between(0.003, 70.0).sigma(ends), torch.tensor([0.003, 70.0], dtype=torch.float64))


def test_importance_times_make_log_noise_uniform():
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    level = LinearVP().log_variance(LinearVP().importance_time(u, 1e-5))
    assert_close(level.diff(), level.diff().mean().expand(10))
    assert_close(log_uniform_sigma(u, 0.01, 10.0).log().diff().std(), torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("grid", [edm_grid, vp_grid, ve_grid, iddpm_grid])
@pytest.mark.parametrize("steps", [1, 2, 17])
def test_every_grid_falls_to_an_exact_zero(grid, steps: int):
    levels = grid(steps)
    assert len(levels) == steps + 1
    assert levels[-1] == 0
    assert (levels.diff() < 0).all()
