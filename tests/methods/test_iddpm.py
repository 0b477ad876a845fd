"""Improved DDPM: what the hybrid loss trains, the learned variance, and the bound's terms."""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.testing import assert_close

from methods.core.density.variational import bound_terms, discretized_log_likelihood, prior_bits
from methods.core.process.chains import Chain, chain_of, linear_betas
from methods.core.process.posterior import diffuse
from methods.core.rng import SeededRng
from methods.core.sampling.ancestral import Reading, learned_log_variance, read_output
from methods.core.types import DataSpec
from methods.iddpm import IDDPM, Sampling
from tests.methods.toy import POINTS, trained

GENERATOR = torch.Generator().manual_seed(0)
X0, NOISE = (torch.rand(6, 1, 4, 4, generator=GENERATOR).double() * 2 - 1 for _ in range(2))
INDEX = torch.tensor([0, 1, 10, 50, 98, 99])
METHOD = IDDPM(steps=100)


def test_the_bound_trains_the_variance_alone() -> None:
    output = torch.zeros(6, 2, 4, 4).double().requires_grad_()
    losses = METHOD.losses(METHOD.chain, output, X0, NOISE, INDEX)
    assert losses.bound is not None
    (gradient,) = torch.autograd.grad(losses.bound.sum(), output)
    assert gradient[:, :1].abs().max() == 0
    assert gradient[:, 1:].abs().max() > 0


def test_a_learned_variance_lies_between_the_chains_small_and_large_one() -> None:
    chain, x = chain_of("cosine", 100), torch.zeros(6, 1, 4, 4).double()
    for v, table in ((-1.0, chain.log_variance_small), (1.0, chain.betas.log())):
        reading = read_output(chain, torch.full((6, 2, 4, 4), v).double(), x, INDEX, "noise", "learned")
        assert reading.variance_share is not None
        assert_close(learned_log_variance(chain, reading.variance_share, INDEX)[:, 0, 0, 0], table[INDEX])


def test_the_bound_of_a_model_that_predicts_the_image_is_its_first_step() -> None:
    chain = METHOD.chain
    x_t = diffuse(X0, chain.alpha_bar[INDEX], NOISE)
    terms = bound_terms(chain, Reading(X0, None), X0, x_t, INDEX, "small")
    assert terms[1:].abs().max() < 1e-9
    assert terms[0] > 0


def test_all_terms_together_code_a_gaussian_at_its_entropy() -> None:
    """For Gaussian data the true step back is Gaussian too, so with its mean and variance the bound is exact."""
    count, prior_variance = 2000, 0.25**2
    x0 = 0.25 * torch.randn(count, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x0 = ((x0.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    chain, total = Chain.of(linear_betas(200)), torch.zeros(count).double()
    for t, alpha_bar in enumerate(chain.alpha_bar):
        noise = torch.randn(count, 1, generator=torch.Generator().manual_seed(1000 + t), dtype=torch.float64)
        x_t = diffuse(x0, alpha_bar.expand(count), noise)
        spread = alpha_bar * prior_variance + 1 - alpha_bar
        unsure = prior_variance * (1 - alpha_bar) / spread  # variance of x_0 given x_t
        variance = chain.posterior.variance[t] + chain.posterior.coef_x0[t] ** 2 * unsure
        low, high = chain.log_variance_small[t], chain.betas[t].log()
        share = ((variance.log() - low) / (high - low)).expand(count, 1)
        reading = Reading(alpha_bar.sqrt() * prior_variance * x_t / spread, share)
        total += bound_terms(chain, reading, x0, x_t, torch.full((count,), t), "learned")
    bits = (total + prior_bits(chain, x0)).mean()
    entropy = 0.5 * math.log2(2 * math.pi * math.e * prior_variance) + math.log2(127.5)
    assert abs(bits - entropy) < 0.05


def test_the_grey_levels_probabilities_sum_to_one() -> None:
    levels = torch.arange(256).double() / 127.5 - 1
    for mean, log_std in ((0.3, -2.0), (-0.99, -1.0), (1.5, 0.5)):
        logs = discretized_log_likelihood(levels, torch.tensor(mean).double(), torch.tensor(log_std).double())
        assert_close(logs.exp().sum(), torch.tensor(1.0).double(), atol=1e-6, rtol=0.0)


def test_iddpm_trains_through_the_one_loop_and_samples_a_spaced_chain() -> None:
    method = IDDPM(steps=40, net="mlp", width=16, depth=1)
    state, metrics = trained(method)
    assert {"loss", "mse", "bound_bits"} <= metrics[0].keys()
    seen: list[Tensor] = []

    def recording(denoise):
        def recorded(x, at):
            reading = denoise(x, at)
            seen.append(reading.variance_share)
            return reading

        return recorded

    out = method.sample(state.nets, Sampling(spacing="8"), None, SeededRng(range(4)), recording)
    assert out.isfinite().all()
    assert len(seen) == 8
    assert all(share.shape == (4, 2) for share in seen)


def test_by_default_it_visits_250_states_or_all_of_a_shorter_chain() -> None:
    for steps, calls in ((40, 40), (300, 250)):
        method, seen = IDDPM(steps=steps, net="mlp", width=8, depth=1), []

        def noted(denoise, seen=seen):
            return lambda x, at: seen.append(at) or denoise(x, at)

        method.sample(method.build(POINTS), Sampling(), None, SeededRng([0]), noted)
        assert len(seen) == calls


def test_every_row_of_adms_ablation_is_another_network_that_can_be_trained() -> None:
    small = IDDPM(steps=50, width=32, depth=1, channel_mult=(1, 2), attention=(4,), heads=1)
    rows = [
        small,
        replace(small, depth=2),
        replace(small, heads=2),
        replace(small, head_width=16),
        replace(small, attention=(8, 4)),
        replace(small, block_resampling=True),
        replace(small, rescale_residuals=True),
        replace(small, adaptive_norm=False),
    ]
    reading = []
    for method in rows:
        torch.manual_seed(0)
        net = method.build(DataSpec((1, 8, 8), 0, 1.0))["denoiser"]
        torch.manual_seed(1)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        reading.append(net(torch.ones(1, 1, 8, 8), torch.tensor([7])).sum())
    assert torch.stack(reading).isfinite().all()
    assert len({value.item() for value in reading}) == len(rows)
