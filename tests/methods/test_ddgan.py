"""DDGAN: the forward pair, the step back, the network that each loss trains, and the learning rates."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from methods.core.loop import TrainState
from methods.core.rng import SeededRng, StepRng
from methods.core.types import Batch, Progress
from methods.ddgan import DDGAN, Sampling
from tests.methods.toy import COLLAPSE_STATISTICS, POINTS, X, trained

METHOD = DDGAN(latent=3)


def drawn(player: str, batch: Batch, step: int = 0) -> dict[str, Tensor]:
    return METHOD.draw(player, batch, StepRng(0, step, player))


def test_the_last_step_returns_the_generators_image() -> None:
    x0, x_t, noise = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    assert_close(METHOD.posterior_at(torch.zeros(5, dtype=torch.int64)).sample(x0, x_t, noise), x0)


def test_the_noisier_of_a_pair_has_the_chains_marginal() -> None:
    count = 50_000
    x0, a, b = torch.randn(3, count, 1, generator=torch.Generator().manual_seed(0))
    for i in range(METHOD.steps):
        x_s, x_t = METHOD.pair(2 * torch.ones_like(x0), torch.full((count,), i), a, b)
        for x, alpha_bar in ((x_s, METHOD.chain.alpha_bar_before[i]), (x_t, METHOD.chain.alpha_bar[i])):
            assert_close(x.mean(), (2 * alpha_bar.sqrt()).float(), atol=0.02, rtol=0.0)
            assert_close(x.var(), (1 - alpha_bar).float(), atol=0.02, rtol=0.0)


def test_samples_take_as_many_calls_as_steps_with_fresh_latents() -> None:
    calls: list[tuple[int, Tensor]] = []

    class Recording(nn.Module):
        shape = (2,)

        def forward(self, x: Tensor, index: Tensor, z: Tensor) -> Tensor:
            calls.append((int(index[0]), z))
            return x

    METHOD.sample({"generator": Recording()}, Sampling(), None, SeededRng(range(4)))
    assert [index for index, _ in calls] == [3, 2, 1, 0]
    assert len({float(z[0, 0]) for _, z in calls}) == 4


def test_each_player_moves_its_own_network_only() -> None:
    torch.manual_seed(0)
    nets = METHOD.build(POINTS)
    for player, other in (("generator", "discriminator"), ("discriminator", "generator")):
        for name, net in nets.items():
            net.requires_grad_(name == player)
        loss, _ = METHOD.loss(player, nets, Batch(X), drawn(player, Batch(X)), step=1)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in nets[player].parameters())
        assert all(p.grad is None for p in nets[other].parameters())
        nets[player].zero_grad(set_to_none=True)


def test_r1_joins_every_fifteenth_step_from_the_first_and_is_not_rescaled() -> None:
    torch.manual_seed(0)
    nets, draws = METHOD.build(POINTS), drawn("discriminator", Batch(X))
    losses = [METHOD.loss("discriminator", nets, Batch(X), draws, step) for step in range(31)]
    assert [step for step, (_, metrics) in enumerate(losses) if "r1" in metrics] == [0, 15, 30]
    assert_close(losses[0][0] - losses[1][0], losses[0][1]["r1"])


def test_the_learning_rate_falls_along_a_cosine_in_epochs() -> None:
    method = DDGAN(epochs=10)
    rate = method.players()[1].optimiser.lr
    rates = [rate(Progress(step, batch=1, steps=110)) for step in range(110)]
    assert rates[0] == rates[9] == method.generator_lr
    assert rates[10] < rates[9]
    assert rates[-1] == pytest.approx(method.lr_min)
    assert rates[50] == pytest.approx((method.generator_lr + method.lr_min) / 2)


def test_both_players_have_the_official_momenta() -> None:
    assert {player.optimiser.betas for player in METHOD.players()} == {(0.5, 0.9)}


def test_the_average_starts_at_the_first_steps_result() -> None:
    state, _ = trained(METHOD, steps=1)
    assert_equal_average(state)
    state, _ = trained(METHOD, steps=2)
    with pytest.raises(AssertionError):
        assert_equal_average(state)


def assert_equal_average(state: TrainState) -> None:
    for name, parameter in state.nets["generator"].named_parameters():
        assert torch.equal(state.averages["generator"][name], parameter.detach())


def test_ddgan_trains_through_the_one_loop() -> None:
    state, metrics = trained(METHOD)
    assert metrics[0].keys() == {"discriminator_loss", "r1", "generator_loss"} | COLLAPSE_STATISTICS
    out = METHOD.sample(state.nets, Sampling(), None, SeededRng(range(5)))
    assert out.shape == (5, 2)
    assert out.isfinite().all()


def test_a_geometric_schedule_with_the_defaults_of_the_other_is_refused() -> None:
    with pytest.raises(ValueError, match="beta_max"):
        DDGAN(schedule="geometric")
