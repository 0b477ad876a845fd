"""Collapse statistics: the metrics of methods with a discriminator."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from methods.core.loop import TrainState
from methods.core.rng import StepRng
from methods.core.training.adversarial import spread
from methods.core.types import Batch, DataSpec
from methods.ddgan import DDGAN
from methods.gan import GAN
from methods.siddm import SIDDM
from methods.tdpm import TDPM

MLP: dict[str, Any] = {"net": "mlp", "width": 16, "depth": 1, "conditional": True}
METHODS = (
    DDGAN(**MLP, steps=2),
    SIDDM(**MLP, steps=2),
    SIDDM(**MLP, steps=2, trained_times="visited"),
    TDPM(**MLP, kept=3, discriminator="residual-mlp"),
    GAN(**MLP),
)
PICTURES = DataSpec((1, 4, 4), 2, 0.5)


def test_spread_is_between_neighbours_of_one_class_among_the_counted() -> None:
    x = torch.tensor([[0.0, 0.0], [10.0, 10.0], [3.0, 3.0], [10.0, 14.0]])
    labels, counted = torch.tensor([0, 1, 0, 1]), torch.tensor([True, True, True, False])
    assert_close(spread(x, labels), torch.tensor(((9.0 + 8.0) / 2) ** 0.5))
    assert_close(spread(x, labels, counted), torch.tensor(3.0))
    assert_close(spread(x[:3]), torch.tensor(((100.0 + 49.0) / 2) ** 0.5))
    assert spread(x, torch.arange(4)) == 0  # no pair of one class


def test_spread_of_many_independent_values_is_their_deviation_times_root_two() -> None:
    x = 3 * torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    assert_close(spread(x), torch.tensor(3 * 2**0.5), atol=0.05, rtol=0.0)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_generator_that_ignores_its_noise_has_no_spread(method: Any) -> None:
    state = TrainState.fresh(method, PICTURES, seed=0)
    maker = state.nets["denoiser" if isinstance(method, TDPM) else "generator"]
    (last,) = (weight for name, weight in maker.named_parameters() if name.endswith("last.weight"))
    for alive in (True, False):
        torch.nn.init.normal_(last, std=0.1 * alive)
        batch = Batch(torch.randn(32, 1, 4, 4), torch.arange(32) % 2)
        draws = method.draw("discriminator", batch, StepRng(0, 0, "discriminator"))
        _, metrics = method.loss("discriminator", state.nets, batch, draws, 0)
        assert metrics["real_spread"] > 0.5
        assert (metrics["fake_spread"] > 0.01) == alive
        assert metrics.keys() >= {"real_logit", "fake_logit"}
