"""Integration and likelihood, against exact answers."""

import math

import pytest
import torch

from methods.core.likelihood import bits_per_dimension, flow_likelihood
from methods.core.mixtures import Mixture
from methods.core.ode import rk45
from methods.core.types import At, Prediction

WORLD = Mixture(torch.tensor([[0.4, -0.3], [-0.6, 0.5]]).double(), 0.2, torch.tensor([0.7, 0.3]).double())


@pytest.mark.parametrize("stop", [2.0, -1.0])
def test_an_exponential_is_integrated_either_way(stop: float) -> None:
    found = rk45(lambda t, y: -y, torch.tensor([1.0, 3.0]), 0.0, stop, 1e-8, 1e-10)
    torch.testing.assert_close(found.y, torch.tensor([1.0, 3.0]).double() * math.exp(-stop), rtol=1e-7, atol=0.0)


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


def test_a_slope_that_is_not_finite_is_told() -> None:
    with pytest.raises(ValueError, match="integration is stuck at t = 0"):
        rk45(lambda t, y: y * math.nan, torch.ones(2), 0.0, 1.0)


def test_the_flows_likelihood_is_the_exact_density() -> None:
    x = WORLD.means + 0.1
    parts = [
        flow_likelihood(WORLD.denoise, x, torch.tensor([1.0, sign]).double().expand_as(x)).log_density
        for sign in (1.0, -1.0)
    ]
    found = bits_per_dimension(sum(parts) / 2, 2)  # type: ignore[arg-type]
    exact = bits_per_dimension(WORLD.log_density(x, torch.zeros(2).double()), 2)
    torch.testing.assert_close(found, exact, rtol=0.0, atol=0.01)


def test_a_push_to_the_true_law_gives_the_true_likelihood() -> None:
    """A wrong denoiser guided by the exact difference of scores is the right one."""
    wrong = Mixture(WORLD.means + 0.3, 0.3, WORLD.weights)

    def denoise(x: torch.Tensor, at: At) -> Prediction:
        return Prediction(wrong.denoised(x, at.sigma), WORLD.score(x, at.sigma) - wrong.score(x, at.sigma))

    x, probe = WORLD.means + 0.1, torch.ones(2, 2).double()
    guided, exact = (flow_likelihood(d, x, probe).log_density for d in (denoise, WORLD.denoise))
    torch.testing.assert_close(guided, exact, rtol=0.0, atol=1e-3)
