"""TDPM: three players on two networks, the prior's place in the chain, and the number of network calls."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from methods.core.rng import BLOCK, SeededRng, StepRng
from methods.core.sampling.ancestral import StepNet
from methods.core.types import Batch, Diffusion
from methods.ddpm import DDPM
from methods.ddpm import Sampling as DDPMSampling
from methods.gan import GAN
from methods.tdpm import TDPM, Sampling, antithetic
from tests.methods.toy import COLLAPSE_STATISTICS, POINTS, X, trained

METHOD = TDPM(kept=5, width=16, depth=1)


def test_times_come_in_antithetic_pairs() -> None:
    half = torch.tensor([0, 3, 2, 4, 1])
    assert antithetic(half, 5, 8).tolist() == [0, 3, 2, 4, 1, 4, 1, 2]
    index = METHOD.draw("denoiser", Batch(X), StepRng(0, 0, "denoiser"))["index"]
    first, mirrored = index.view(-1, 2, BLOCK // 2).unbind(1)  # within a block, so that workers need not share pairs
    assert torch.equal(mirrored, 4 - first)
    assert set(index.tolist()) == set(range(5))


def test_the_prior_imitates_the_state_that_the_first_denoising_step_expects() -> None:
    x0, noise = torch.zeros(1, 2), torch.ones(1, 2)
    level = METHOD.prior_target(x0, noise)[0, 0]
    assert_close(level, (1 - METHOD.kept_chain.alpha_bar[-1]).sqrt().float())
    released = TDPM(kept=5, release_indexing=True).prior_target(x0, noise)[0, 0]
    assert_close(released, (1 - METHOD.chain.alpha_bar[5]).sqrt().float())


@pytest.mark.parametrize(("kept", "spacing", "calls"), [(5, None, 6), (5, "2", 3), (0, None, 1)])
def test_a_sample_costs_one_call_for_the_prior_and_one_per_state(kept: int, spacing: str | None, calls: int) -> None:
    method = TDPM(kept=kept, width=16, depth=1)
    nets, steps = method.build(POINTS), []
    nets["denoiser"].register_forward_hook(lambda net, given, out: steps.append(int(given[1][0])))
    out = method.sample(nets, Sampling(spacing), None, SeededRng(range(3)))
    assert out.shape == (3, 2)
    assert len(steps) == calls
    assert steps[0] == kept  # the prior, at the step beyond the last kept one


def test_three_players_share_one_network_and_each_has_its_own_optimiser() -> None:
    assert isinstance(METHOD, Diffusion)
    assert [(p.name, p.net) for p in METHOD.players()] == [
        ("denoiser", "denoiser"),
        ("prior", "denoiser"),
        ("discriminator", "discriminator"),
    ]
    state, metrics = trained(METHOD)
    assert metrics[0].keys() == {"denoiser_loss", "prior_loss", "discriminator_loss", "r1"} | COLLAPSE_STATISTICS
    assert state.optimisers["denoiser"] is not state.optimisers["prior"]
    assert state.averages.keys() == {"denoiser"}


def test_the_average_is_taken_before_the_adversarial_step_changes_the_network() -> None:
    still = TDPM(kept=5, width=16, depth=1, ema=0.0, prior_lr=0.0)
    moving = TDPM(kept=5, width=16, depth=1, ema=0.0)
    (one, _), (other, _) = trained(still, steps=1), trained(moving, steps=1)
    for name, value in one.averages["denoiser"].items():
        assert torch.equal(value, other.averages["denoiser"][name])
        assert torch.equal(value, dict(one.nets["denoiser"].named_parameters())[name].detach())


def test_a_separate_prior_does_not_change_the_denoiser() -> None:
    method = TDPM(kept=5, width=16, depth=1, prior="separate")
    nets = method.build(POINTS)
    assert nets.keys() == {"denoiser", "prior", "discriminator"}
    loss, _ = method.loss("prior", nets, Batch(X), method.draw("prior", Batch(X), StepRng(0, 0, "prior")), 0)
    loss.backward()
    assert all(p.grad is None for p in nets["denoiser"].parameters())
    state, _ = trained(method)
    assert method.sample(state.nets, Sampling(), None, SeededRng(range(3))).isfinite().all()


def test_without_a_chain_it_is_a_plain_gan() -> None:
    method = TDPM(kept=0, width=16, depth=1)
    assert [p.name for p in method.players()] == ["prior", "discriminator"]
    assert torch.equal(method.prior_target(X, torch.ones_like(X)), X)
    trained(method)

    class Timeless(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return nets["denoiser"](z, torch.zeros(len(z), dtype=torch.int64))

    torch.manual_seed(0)
    nets = method.build(POINTS)
    torch.nn.init.normal_(nets["denoiser"].get_parameter("body.last.weight"))
    gan, gan_nets = GAN(r1_gamma=method.r1_gamma), {"generator": Timeless(), "discriminator": nets["discriminator"]}
    for ours, theirs in (("prior", "generator"), ("discriminator", "discriminator")):
        draws = method.draw(ours, Batch(X), StepRng(0, 0, ours))
        loss, _ = method.loss(ours, nets, Batch(X), draws, 0)
        assert_close(loss, gan.loss(theirs, gan_nets, Batch(X), draws, 0)[0])


def test_with_every_state_kept_it_is_ddpm() -> None:
    """The same chain, the same loss but for sum against mean, the same sampling; the prior's target is pure noise."""
    whole, ddpm = TDPM(kept=50, steps=50, width=16, depth=1), DDPM(steps=50, net="mlp", width=16, depth=1)
    torch.manual_seed(0)
    nets = ddpm.build(POINTS)
    torch.nn.init.normal_(nets["denoiser"].get_parameter("body.last.weight"), std=0.1)
    draws = ddpm.draw("denoiser", Batch(X), StepRng(0, 0, "denoiser"))
    ours, _ = whole.loss("denoiser", nets, Batch(X), draws, 0)
    theirs, _ = ddpm.loss("denoiser", nets, Batch(X), draws, 0)
    assert_close(ours, 2 * theirs)
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    assert_close(whole.prior_target(X, noise), noise, atol=0.05, rtol=0.0)

    class Through(torch.nn.Module):
        """A prior that generates its target exactly."""

        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(()))

        def forward(self, z: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
            return self.gain * z

    separate = replace(whole, prior="separate")
    assert_close(
        separate.sample(nets | {"prior": StepNet(Through(), (2,))}, Sampling(), None, SeededRng(range(5))),
        ddpm.sample(nets, DDPMSampling(), None, SeededRng(range(5))),
    )


@pytest.mark.parametrize("kept", [-1, 51])
def test_a_truncation_outside_the_chain_is_refused(kept: int) -> None:
    with pytest.raises(ValueError, match=f"^kept: {kept} came, between 0 and 50 was wanted"):
        TDPM(kept=kept, steps=50)


def test_the_denoising_loss_sums_over_an_image() -> None:
    class Nothing(torch.nn.Module):
        def forward(self, x: Tensor, step: Tensor) -> Tensor:
            return torch.zeros_like(x)

    errors = METHOD.denoising_errors(Nothing(), torch.zeros(2, 3, 4, 4), torch.tensor([0, 4]), torch.ones(2, 3, 4, 4))
    assert errors.tolist() == [48.0, 48.0]
