"""The Gaussian step back, spacings of chains, and the R1 penalty, against independently known numbers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from methods.core.process.chains import Chain, chain_of, linear_betas
from methods.core.process.posterior import diffuse, implicit_step, posterior
from methods.core.training.adversarial import loss_on_fake, loss_on_real, squared_gradient

ALPHA_BAR_S = torch.tensor([0.9999, 0.9, 0.5, 0.1], dtype=torch.float64)
BETA = torch.tensor([0.001, 0.3, 0.5, 1.0], dtype=torch.float64)


def test_the_posterior_is_what_conditioning_a_joint_gaussian_gives() -> None:
    post = posterior(ALPHA_BAR_S, BETA)
    for i, (alpha_bar, beta) in enumerate(zip(ALPHA_BAR_S, BETA)):
        # given x0: x_s = sqrt(alpha_bar) x0 + ..., x_t = sqrt(1 - beta) x_s + ...
        var_s, cov = 1 - alpha_bar, (1 - beta).sqrt() * (1 - alpha_bar)
        var_t = (1 - beta) * var_s + beta
        gain = cov / var_t
        assert_close(post.coef_xt[i], gain)
        assert_close(post.coef_x0[i], alpha_bar.sqrt() * (1 - gain * (1 - beta).sqrt()))
        assert_close(post.variance[i], var_s - gain * cov)


def test_stepping_back_from_the_marginal_gives_the_marginal() -> None:
    post, alpha_bar_t = posterior(ALPHA_BAR_S, BETA), ALPHA_BAR_S * (1 - BETA)
    assert_close(post.coef_x0 + post.coef_xt * alpha_bar_t.sqrt(), ALPHA_BAR_S.sqrt())
    assert_close(post.variance + post.coef_xt**2 * (1 - alpha_bar_t), 1 - ALPHA_BAR_S)


def test_the_step_back_to_a_clean_image_is_the_image_itself() -> None:
    x0, x_t, noise = torch.randn(3, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert_close(posterior(torch.ones(2), torch.tensor([0.1, 0.9])).sample(x0, x_t, noise), x0)


def test_the_implicit_step_keeps_the_noise_it_finds() -> None:
    x0, noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    alpha_bar_t = ALPHA_BAR_S * 0.7
    assert_close(
        implicit_step(x0, diffuse(x0, alpha_bar_t, noise), ALPHA_BAR_S, alpha_bar_t), diffuse(x0, ALPHA_BAR_S, noise)
    )


def test_a_float32_image_keeps_the_noise_of_a_chain_that_has_almost_none() -> None:
    x0, noise = torch.zeros(1, 2), torch.ones(1, 2)
    assert_close(diffuse(x0, torch.tensor([1 - 1e-10], dtype=torch.float64), noise), 1e-5 * noise, rtol=1e-5, atol=0.0)


def test_a_spaced_chain_has_the_same_noise_at_the_states_it_keeps() -> None:
    whole = chain_of("cosine", 100)
    for spacing in ("10", "10,5,20", "ddim25"):
        chain = whole.spaced(spacing)
        assert_close(chain.alpha_bar, whole.alpha_bar[chain.steps])
        assert torch.equal(chain.index_of(whole.sigma[chain.steps]), torch.arange(len(chain)))


@pytest.mark.parametrize("spacing", ["ddim99", "101", "60,10"])
def test_an_impossible_spacing_is_refused_by_name(spacing: str) -> None:
    with pytest.raises(ValueError, match="spacing"):
        Chain.of(linear_betas(100)).spaced(spacing)


def test_the_chain_of_latent_diffusion_has_its_noise_levels() -> None:
    exact = np.cumprod(1 - np.linspace(8.5e-4**0.5, 0.012**0.5, 1000) ** 2)
    assert_close(chain_of("latent", 1000).alpha_bar, torch.from_numpy(exact), atol=1e-12, rtol=0)
    printed = {10: 0.991, 50: 0.953, 150: 0.829, 200: 0.755, 300: 0.592, 500: 0.278, 1000: 0.0047}  # by kept steps
    assert_close(exact[[kept - 1 for kept in printed]], np.array([*printed.values()]), atol=5e-4, rtol=0)


def test_r1_of_a_quadratic_is_known_and_can_be_differentiated() -> None:
    scale = nn.Parameter(torch.tensor(3.0))
    x = torch.tensor([[1.0, 2.0], [0.0, 1.0]]).requires_grad_()
    penalty = squared_gradient((scale * x**2).sum(1), x)  # gradient 2 scale x
    assert_close(penalty, torch.tensor(4 * 9 * (5 + 1) / 2))
    penalty.backward()
    assert_close(scale.grad, torch.tensor(2 * 4 * 3 * 3.0))


def test_a_constant_discriminator_has_loss_log_two_on_each_side() -> None:
    logits = torch.zeros(8, 2)
    assert_close(loss_on_real(logits), torch.tensor(2.0).log())
    assert_close(loss_on_fake(logits), torch.tensor(2.0).log())
