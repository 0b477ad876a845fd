"""Theorems, checked where everything is known in closed form."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from methods.core.density.mixtures import Mixture, log_ratio
from methods.core.guidance import Guide, constant, guided
from methods.core.process.noise import edm_grid
from methods.core.process.posterior import posterior
from methods.core.rng import StepRng
from methods.core.sampling.samplers import heun
from methods.core.types import Denoiser

sys.path.append(str(Path(__file__).parents[2] / "studies" / "exact"))

from score_errors import (
    Estimate,
    Levels,
    gain,
    kl_by_quadrature,
    kl_by_sampling,
    kl_of_flow,
    score_error,
)

LINE = Mixture(torch.tensor([[-1.0], [0.4], [1.2]]).double(), 0.15, torch.tensor([0.5, 0.3, 0.2]).double())
WRONG_LINE = Mixture(torch.tensor([[-0.8], [0.2], [1.5]]).double(), 0.25, torch.tensor([0.2, 0.4, 0.4]).double())
PLANE = Mixture(torch.tensor([[0.8, 0.0], [-0.8, 0.0]]).double(), 0.25, torch.tensor([0.5, 0.5]).double())
WRONG_PLANE = Mixture(torch.tensor([[0.6, 0.3], [-0.9, 0.1]]).double(), 0.35, torch.tensor([0.3, 0.7]).double())
WORLDS = pytest.mark.parametrize(("data", "model"), [(LINE, WRONG_LINE), (PLANE, WRONG_PLANE)], ids=["1-D", "2-D"])
LEVELS = Levels(0.02, 40.0)
TINY = 1e-200  # densities that count


def adjusted(data: Mixture, model: Mixture, weight: float = 1.0) -> Denoiser:
    """By `weight` times the optimal discriminator's correction."""
    return guided(model.denoise, Guide(log_ratio(data, model), constant(weight)))


def agree(first: Estimate, second: Estimate) -> None:
    assert abs(first.value - second.value) < 3 * math.hypot(first.error, second.error)


def at_ends(data: Mixture, model: Mixture) -> tuple[float, Estimate]:
    """KL(data || model) at the largest level, and its increase at the smallest."""
    rng = StepRng(0, 0, "ends")
    if data.means.shape[1] == 1:
        low, high = (kl_by_quadrature(data, model, sigma) for sigma in LEVELS)
        return high, Estimate(low - high, 1e-6)
    low, high = (kl_by_sampling(data, model, rng, sigma, 100_000) for sigma in LEVELS)
    return high.value, Estimate(low.value - high.value, math.hypot(low.error, high.error))


def test_the_divergence_of_gaussians_is_the_known_one_by_both_ways() -> None:
    p, q = (
        Mixture(torch.tensor([[mean]], dtype=torch.float64), std, torch.ones(1).double())
        for mean, std in ((0.3, 0.5), (-0.2, 0.8))
    )
    exact = math.log(0.8 / 0.5) + (0.5**2 + 0.5**2) / (2 * 0.8**2) - 0.5
    assert kl_by_quadrature(p, q) == pytest.approx(exact, abs=1e-9)
    agree(kl_by_sampling(p, q, StepRng(0, 0, "kl")), Estimate(exact, 0.0))
    assert kl_by_quadrature(p, p) == 0


@WORLDS
def test_the_score_error_is_the_divergence_that_noise_took_away(data: Mixture, model: Mixture) -> None:
    """Theorem 2 with equality: the model's score is that of its own diffused law."""
    far, grown = at_ends(data, model)
    assert 0 <= far < 0.01
    agree(score_error(data, model.denoise, StepRng(0, 0, "error"), LEVELS), grown)


@WORLDS
@pytest.mark.parametrize("weight", [0.5, 1.0, 2.0])
def test_the_gain_is_the_score_error_less_the_adjusted_one(data: Mixture, model: Mixture, weight: float) -> None:
    """Gain = E_theta - E_theta,phi, the left side without the data's score."""
    rng = StepRng(1, 0, "gain")
    better = adjusted(data, model, weight)
    before, after = (score_error(data, denoise, rng, LEVELS, 40_000) for denoise in (model.denoise, better))
    won = gain(model.denoise, better, data.sample(40_000, rng), rng, LEVELS)
    agree(won, Estimate(before.value - after.value, math.hypot(before.error, after.error)))
    if weight == 1.0:  # with the optimal discriminator no error remains
        assert after.value < 1e-9
        agree(won, at_ends(data, model)[1])


def test_a_constant_discriminator_gains_nothing_and_a_wrong_one_loses() -> None:
    x0, rng = PLANE.sample(4000, StepRng(0, 0, "x")), StepRng(0, 1, "gain")
    blind = guided(WRONG_PLANE.denoise, Guide(lambda x, at: x.new_zeros(len(x)), constant(1.0)))
    assert gain(WRONG_PLANE.denoise, blind, x0, rng, LEVELS) == Estimate(0.0, 0.0)
    backwards = gain(WRONG_PLANE.denoise, adjusted(PLANE, WRONG_PLANE, -1.0), x0, rng, LEVELS)
    assert backwards.value < -3 * backwards.error


def kl_in_steps(denoise: Denoiser, steps: int) -> float:
    grid = edm_grid(steps)
    return kl_of_flow(LINE, lambda latents: heun(denoise, latents * grid[0], grid))


def test_what_samples_lack_is_split_into_score_guidance_and_discretisation() -> None:
    """With many steps the flow has the distribution of its score; the error that steps add falls with their number."""
    right, wrong, half = LINE.denoise, WRONG_LINE.denoise, adjusted(LINE, WRONG_LINE, 0.5)
    of_score, of_guidance = (kl_in_steps(denoise, 200) for denoise in (wrong, half))
    assert kl_in_steps(right, 200) < 2e-3
    assert of_score == pytest.approx(kl_by_quadrature(LINE, WRONG_LINE), rel=0.01)  # the prior has the rest
    assert 0 < of_guidance < 0.5 * of_score
    for denoise, limit in ((wrong, of_score), (half, of_guidance)):
        coarse, fine = (abs(kl_in_steps(denoise, steps) - limit) for steps in (12, 48))
        assert fine < coarse / 4


def test_a_flow_that_folds_is_refused() -> None:
    with pytest.raises(ValueError, match="folds"):
        kl_of_flow(LINE, lambda latents: -latents)


def normal(x: Tensor, mean: Tensor | float, variance: float) -> Tensor:
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def jensen_shannon(p: Tensor, q: Tensor, cell: float) -> float:
    middle = (p + q) / 2
    return sum(torch.where(f > TINY, f * (f / middle).log(), 0.0).sum().item() * cell / 2 for f in (p, q))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.1, 1.0), (0.0, 1.2), (0.5, 0.6), (2.0, 0.3)])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_siddms_joint_divergence_is_bounded_by_marginals_and_forward_conditional(
    shift: float, scale: float, beta: float
) -> None:
    """SIDDM, theorem 1: JSD(q(x_s, x_u), p(x_s, x_u)) <= 2 c1 sqrt(2 JSD(q(x_s), p(x_s)))
    + 2 c2 sqrt(2 KL(p(x_u | x_s) || q(x_u | x_s))), c1 and c2 bounds of 1/2 int q(x_u | x_s) and 1/2 int p(x_s): 1/2
    of normalised densities; KL its mean over p(x_s). In nats.

    The model is as in training: x_u from q, x0 guessed as scale * x_u + shift, x_s from the posterior. The data are
    normal, so all is, and the densities are summed over a grid.
    """
    alpha_bar_s, variance = 0.8, 0.5**2
    keep = 1 - beta
    x = torch.linspace(-8.0, 8.0, 801, dtype=torch.float64)
    cell = (x[1] - x[0]).item()
    q_s = normal(x, 0.0, alpha_bar_s * variance + 1 - alpha_bar_s)
    q_u_of_s = normal(x[None], math.sqrt(keep) * x[:, None], beta)
    q_u = normal(x, 0.0, alpha_bar_s * keep * variance + 1 - alpha_bar_s * keep)
    back = posterior(torch.tensor(alpha_bar_s).double(), torch.tensor(beta).double())
    guessed = back.coef_x0 * (scale * x + shift) + back.coef_xt * x
    p_joint = normal(x[:, None], guessed[None], back.variance.item()) * q_u[None]
    p_s = p_joint.sum(1) * cell
    q_joint = q_s[:, None] * q_u_of_s
    for whole in (p_joint, q_joint):
        assert whole.sum().item() * cell**2 == pytest.approx(1.0, abs=1e-6)
    conditional = torch.where(p_joint > TINY, p_joint * (p_joint / (p_s[:, None] * q_u_of_s)).log(), 0.0)
    divergence = conditional.sum().item() * cell**2
    bound = math.sqrt(2 * jensen_shannon(q_s, p_s, cell)) + math.sqrt(2 * divergence)
    assert 0 <= jensen_shannon(q_joint, p_joint, cell**2) <= bound
