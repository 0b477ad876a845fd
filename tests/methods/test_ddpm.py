"""DDPM: ancestral and DDIM sampling against known distributions, and the effect of guidance on one step."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from methods.core.density.mixtures import Mixture
from methods.core.guidance import Guide, constant, guided
from methods.core.process.chains import chain_of
from methods.core.rng import InjectedRng, SeededRng
from methods.core.sampling.ancestral import ancestral, ancestral_step, chain_denoiser, clipped, ddim, ddim_step
from methods.core.types import At, Batch, Diffusion, Prediction
from methods.ddpm import DDPM, Sampling
from tests.methods.toy import POINTS, trained

SMALL = DDPM(net="mlp", steps=40, width=16, depth=1, conditional=True)
ROUND = Mixture(torch.zeros(1, 2).double(), 0.6, torch.ones(1).double())
CHAIN = chain_of("linear", 1000)


def noise(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_ddim_follows_the_exact_flow_of_a_gaussian() -> None:
    x = noise(64, 2)
    out = ddim(ROUND.denoise, x, CHAIN, SeededRng(range(64)))
    last = CHAIN.alpha_bar[-1]
    assert_close(out, x * 0.6 / (last * 0.6**2 + 1 - last).sqrt(), atol=0.0, rtol=5e-3)


def test_ancestral_steps_reach_the_data_law_from_below_and_above() -> None:
    """The posterior's variance is right for a single image, beta for data of unit variance (DDPM section 3.2)."""
    stds = []
    for variance in ("small", "large"):
        out = ancestral(ROUND.denoise, noise(4000, 2), CHAIN.spaced("250"), Shared(), variance)
        stds.append(float(out.std()))
    assert 0.57 < stds[0] < 0.6 < stds[1] < 0.63


class Shared:
    """One stream for all rows: faster than one for each."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(2)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(4000, *shape, generator=self.generator)

    uniform = normal


def test_guidance_shifts_the_ancestral_mean_by_the_variance_times_the_score() -> None:
    x, guidance_score, fresh = noise(4, 2), torch.tensor([[0.3, -2.0]]).double(), torch.zeros(4, 2).double()
    for index in (0, 1, 500, 999):
        plain, shifted = (
            ancestral_step(denoise, x, CHAIN, index, InjectedRng(fresh), "large")
            for denoise in (ROUND.denoise, lambda x, at: ROUND.denoise(x, at)._replace(guidance_score=guidance_score))
        )
        by_x_vp = guidance_score / CHAIN.alpha_bar[index].sqrt()
        assert_close(shifted.x - plain.x, (CHAIN.variance_large[index] * by_x_vp).expand(4, 2), atol=1e-12, rtol=1e-6)
        assert torch.equal(shifted.x0, plain.x0)


def test_ddim_moves_the_noise_after_clipping() -> None:
    x, guidance_score = noise(4, 2), torch.tensor([[0.3, -2.0]]).double()
    far = Prediction(torch.full((4, 2), 5.0).double(), guidance_score)
    step = ddim_step(clipped(lambda x, at: far), x, CHAIN, 500, InjectedRng(), 0.0)
    assert_close(step.x0, (1 + CHAIN.sigma[500] ** 2 * guidance_score).expand(4, 2))


def test_a_guide_with_equal_logits_changes_no_bit() -> None:
    state, _ = trained(SMALL)
    blind = Guide(lambda x, at: 0 * x.flatten(1).sum(1), constant(3.0))
    labels = torch.arange(8) % 3
    for sampling in (Sampling(), Sampling(eta=0.0, spacing="ddim10")):
        plain = SMALL.sample(state.nets, sampling, labels, SeededRng(range(8)))
        steered = SMALL.sample(state.nets, sampling, labels, SeededRng(range(8)), lambda d: guided(d, blind))
        assert torch.equal(plain, steered)


def test_the_networks_time_is_the_step_of_the_chain_it_was_trained_on() -> None:
    received: list[int] = []

    def net(x: Tensor, step: Tensor) -> Tensor:
        received.append(int(step[0]))
        return x

    chain = CHAIN.spaced("7")
    ancestral(chain_denoiser(net, chain), noise(1, 2), chain, SeededRng([0]), "large")
    assert received == chain.steps.flip(0).tolist()


def test_ddpm_trains_through_the_one_loop_and_samples_through_a_denoiser() -> None:
    assert isinstance(SMALL, Diffusion)
    state, metrics = trained(SMALL)
    assert all(m["loss"].isfinite() for m in metrics)
    labels = torch.arange(8) % 3
    out = SMALL.sample(state.nets, Sampling(spacing="5"), labels, SeededRng(range(8)))
    assert out.shape == (8, 2)
    assert out.dtype == torch.float32


def test_the_loss_of_a_perfect_prediction_is_zero() -> None:
    method = DDPM(net="mlp", conditional=False)
    batch_noise = noise(4, 2).float()
    loss, _ = method.loss(
        "denoiser",
        {"denoiser": Says(batch_noise)},
        Batch(torch.zeros(4, 2)),
        {"index": torch.arange(4), "noise": batch_noise},
        0,
    )
    assert loss == 0


class Says(nn.Module):
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, step: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.output


def test_a_conditional_network_without_labels_raises_an_error() -> None:
    net = SMALL.build(POINTS)["denoiser"]
    with pytest.raises(ValueError, match="labels"):
        SMALL.denoiser(net, None)(torch.zeros(1, 2), At(torch.ones(1), 0))
