"""Collapse statistics: the metrics of methods with a discriminator."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from methods.core.loop import TrainState
from methods.core.rng import StepRng
from methods.core.training.adversarial import Game, spread
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


RELATIVISTIC = (
    GAN(**MLP, game="relativistic", r1_gamma=0.1),
    DDGAN(**MLP, steps=2, game="relativistic", r1_gamma=0.1),
    SIDDM(**MLP, steps=2, game="relativistic", r1_gamma=0.1, afd_weight=0.0, c_target=None, clean_weight=None),
)


class Shifted(torch.nn.Module):
    """A discriminator whose logits are all higher by a constant."""

    def __init__(self, net: torch.nn.Module, by: float) -> None:
        super().__init__()
        self.net, self.by = net, by

    def forward(self, *given: Any) -> Any:
        output = self.net(*given)
        return output + self.by if isinstance(output, torch.Tensor) else output._replace(logits=output.logits + self.by)


@pytest.mark.parametrize("method", RELATIVISTIC, ids=lambda method: type(method).__name__)
def test_a_constant_added_to_relativistic_logits_changes_nothing(method: Any) -> None:
    nets = TrainState.fresh(method, PICTURES, seed=0, dtype=torch.float64).nets
    batch = Batch(torch.randn(32, 1, 4, 4, dtype=torch.float64), torch.arange(32) % 2)
    shifted = nets | {"discriminator": Shifted(nets["discriminator"], 3.0)}
    for player in ("discriminator", "generator"):
        drawn = method.draw(player, batch, StepRng(0, 0, player)).items()
        draws = {name: part.double() if part.is_floating_point() else part for name, part in drawn}
        loss, metrics = method.loss(player, nets, batch, draws, 1)
        moved, statistics = method.loss(player, shifted, batch, draws, 1)
        assert_close(moved, loss)
        assert_close(statistics, metrics)
        assert not metrics.keys() & {"real_logit", "fake_logit"}  # these would change
        reversed_loss, _ = method.loss(player, nets, Batch(batch.images.flip(0), batch.labels), draws, 1)
        assert abs(reversed_loss - loss) > 1e-9  # both players see the reals


@pytest.mark.parametrize("method", RELATIVISTIC, ids=lambda method: type(method).__name__)
def test_relativistic_penalties_are_on_reals_and_fakes_in_every_step(method: Any) -> None:
    nets = TrainState.fresh(method, PICTURES, seed=0).nets
    batch = Batch(torch.randn(32, 1, 4, 4), torch.arange(32) % 2)
    draws = method.draw("discriminator", batch, StepRng(0, 0, "discriminator"))
    values = []
    for r2_gamma in (None, 0.1, 0.3, 0.0):
        changed = replace(method, r2_gamma=r2_gamma)
        loss, metrics = changed.loss("discriminator", nets, batch, draws, 1)
        values.append(loss.detach())
        assert metrics["r1"] > 0
        assert ("r2" in metrics) == (r2_gamma != 0)
    as_r1, same, more, less = values
    assert_close(as_r1, same)
    assert_close(more - less, 3 * (same - less))


def test_the_penalty_on_fakes_belongs_to_the_relativistic_game() -> None:
    for make in (GAN, DDGAN, SIDDM):
        with pytest.raises(ValueError, match="none beside game 'non-saturating' was wanted"):
            make(r2_gamma=0.1)
        with pytest.raises(ValueError, match="game: 'hinge' came"):
            make(game="hinge")  # type: ignore[arg-type]
    assert Game("non-saturating", 0.2, r1_every=4).penalties(8) == {"r1": 0.1}
    assert Game("non-saturating", 0.2, r1_every=4).penalties(9) == {}
    assert Game("relativistic", 0.2, 0.0, r1_every=4).penalties(9) == {"r1": 0.1}
