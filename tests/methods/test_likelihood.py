"""Integration and likelihood, against exact answers."""

import math

import pytest
import torch

from methods.core.density.likelihood import bits_per_dim, bits_per_dimension, dequantised, flow_likelihood
from methods.core.density.mixtures import Mixture, log_ratio
from methods.core.guidance import Guide, constant, guided
from methods.core.pixels import from_uint8
from methods.core.process.noise import vp_between
from methods.core.rng import SeededRng, StepRng
from methods.core.sampling.ode import rk45

WORLD = Mixture(torch.tensor([[0.4, -0.3], [-0.6, 0.5]]).double(), 0.2, torch.tensor([0.7, 0.3]).double())


@pytest.mark.parametrize("stop", [2.0, -1.0])
def test_an_exponential_is_integrated_either_way(stop: float) -> None:
    computed = rk45(lambda t, y: -y, torch.tensor([1.0, 3.0]), 0.0, stop, 1e-8, 1e-10)
    torch.testing.assert_close(computed.y, torch.tensor([1.0, 3.0]).double() * math.exp(-stop), rtol=1e-7, atol=0.0)


def test_a_tighter_tolerance_costs_more_and_errs_less() -> None:
    exact = torch.tensor([math.sin(5.0)]).double()
    loose, tight = (
        rk45(lambda t, y: torch.full_like(y, math.cos(t)), torch.zeros(1), 0.0, 5.0, tolerance, tolerance)
        for tolerance in (1e-3, 1e-8)
    )
    assert loose.calls < tight.calls
    assert abs(tight.y - exact) < 1e-7 < abs(loose.y - exact)


def test_calls_are_counted() -> None:
    times: list[float] = []

    def slope(t: float, y: torch.Tensor) -> torch.Tensor:
        times.append(t)
        return -y

    assert rk45(slope, torch.ones(2), 0.0, 1.0).calls == len(times)


def test_a_slope_that_is_not_finite_raises_an_error() -> None:
    with pytest.raises(ValueError, match="integration is stuck at t = 0"):
        rk45(lambda t, y: y * math.nan, torch.ones(2), 0.0, 1.0)


def test_the_flows_likelihood_is_the_exact_density() -> None:
    x = WORLD.means + 0.1
    parts = [
        flow_likelihood(WORLD.denoise, x, torch.tensor([1.0, sign]).double().expand_as(x)).log_density
        for sign in (1.0, -1.0)
    ]
    computed = bits_per_dimension(sum(parts) / 2, 2)  # type: ignore[arg-type]
    exact = bits_per_dimension(WORLD.log_density(x, torch.zeros(2).double()), 2)
    torch.testing.assert_close(computed, exact, rtol=0.0, atol=0.01)


def test_a_guided_denoisers_likelihood_is_that_of_the_guided_law() -> None:
    """A wrong denoiser guided by the exact density ratio is the right one: its score changes the divergence."""
    wrong = Mixture(WORLD.means + 0.3, 0.3, WORLD.weights)
    corrected = guided(wrong.denoise, Guide(log_ratio(WORLD, wrong), constant(1.0)))
    x, probe = WORLD.means + 0.1, torch.ones(2, 2).double()
    computed, exact, unguided = (
        flow_likelihood(denoise, x, probe).log_density for denoise in (corrected, WORLD.denoise, wrong.denoise)
    )
    torch.testing.assert_close(computed, exact, rtol=0.0, atol=1e-3)
    assert (unguided - exact).abs().min() > 0.1


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


@pytest.mark.parametrize("time_min", [1e-5, 1e-3, 1e-2])
def test_exact_likelihood_and_bound_agree_wherever_they_are_truncated(time_min: float) -> None:
    """Soft Truncation's claim, and Theorem 1's assumption in discriminator guidance (its figure 14)."""
    x = WORLD.sample(400, StepRng(0, 0, "x"))
    computed = bits_per_dim(WORLD.denoise, x, SeededRng(range(400)), time_min=time_min, times=16)
    exact = bits_per_dimension(WORLD.log_density(x, torch.zeros(400).double()), 2)
    for kind in (computed.nll, computed.nelbo):
        difference, error = mean_and_error(kind - exact)
        assert abs(difference) < 3 * error + 0.01
        assert error < 0.15  # of which the flow itself has 0.001: the probe and the last step have the rest


def test_the_likelihood_under_a_wrong_model_is_that_of_its_density() -> None:
    """The score is that of a diffused distribution, if a wrong one: flow and reverse process have its likelihood."""
    wrong = Mixture(WORLD.means + 0.1, 0.2, WORLD.weights)
    x = WORLD.sample(400, StepRng(0, 0, "x"))
    computed = bits_per_dim(wrong.denoise, x, SeededRng(range(400)), time_min=1e-4, times=32)
    exact = bits_per_dimension(wrong.log_density(x, torch.zeros(400).double()), 2)
    for kind in (computed.nll, computed.nelbo):
        difference, error = mean_and_error(kind - exact)
        assert abs(difference) < 3 * error + 0.01


def test_on_the_levels_of_edm_the_likelihood_is_the_same() -> None:
    x = WORLD.means + 0.1
    seeds = SeededRng(range(2)), SeededRng(range(2))
    ours, edm = (
        bits_per_dim(WORLD.denoise, x, rng, process, 1e-3, times=1)
        for rng, process in zip(seeds, (vp_between(0.002, 152.0), vp_between(0.002, 80.0)))
    )
    torch.testing.assert_close(ours.nll, edm.nll, rtol=0.0, atol=0.01)


def test_a_likelihood_is_an_images_own_whatever_its_neighbours() -> None:
    x = WORLD.sample(8, StepRng(0, 0, "x"))
    whole = bits_per_dim(WORLD.denoise, x, SeededRng(range(8)), times=2, tolerance=1e-7)
    half = bits_per_dim(WORLD.denoise, x[:4], SeededRng(range(4)), times=2, tolerance=1e-7)
    torch.testing.assert_close(whole.nelbo[:4], half.nelbo)
    torch.testing.assert_close(whole.nll[:4], half.nll, rtol=0.0, atol=1e-5)  # one step size for all of a batch


def test_grey_levels_fill_the_range_without_overlap() -> None:
    levels = from_uint8(torch.arange(256, dtype=torch.uint8))
    low, high = dequantised(levels, torch.zeros(256)), dequantised(levels, torch.ones(256))
    torch.testing.assert_close(low[1:], high[:-1], rtol=0.0, atol=1e-6)
    assert (low[0].item(), high[-1].item()) == pytest.approx((-1.0, 1.0))


def test_uniform_noise_over_the_range_costs_eight_bits() -> None:
    """log2 256, by the definition of bits/dim."""
    assert bits_per_dimension(torch.tensor([-64 * math.log(2)]), 64).item() == pytest.approx(8.0)
