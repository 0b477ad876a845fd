"""Guidance with exact density ratios, where the guided distribution is known."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from methods.core.density.mixtures import Mixture, log_ratio
from methods.core.guidance import LOG_RATIO_OUTSIDE, Guide, boosted, constant, guided
from methods.core.process.noise import edm_grid
from methods.core.rng import StepRng
from methods.core.sampling.samplers import heun
from methods.core.types import At, LogWeight, Prediction


def mixture(means: list[list[float]], std: float, weights: list[float]) -> Mixture:
    return Mixture(torch.tensor(means, dtype=torch.float64), std, torch.tensor(weights, dtype=torch.float64))


DATA = mixture([[0.6, 0.4], [-0.5, 0.3], [0.1, -0.7]], 0.12, [0.5, 0.3, 0.2])
MODEL = mixture([[0.5, 0.3], [-0.4, 0.4], [0.2, -0.5]], 0.2, [0.3, 0.3, 0.4])
OTHER = mixture([[0.0, 0.0]], 0.8, [1.0])
NOISE = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
GRID = edm_grid(40)


def ratio_guide(weight: float = 1.0, data: Mixture = DATA, model: Mixture = MODEL) -> Guide:
    return Guide(log_ratio(data, model), constant(weight), is_density_ratio=True)


def samples(*guides: Guide) -> Tensor:
    return heun(guided(MODEL.denoise, *guides), NOISE * GRID[0], GRID)


def blind(x: Tensor, at: At) -> Tensor:
    return torch.full_like(at.sigma, 0.7)


def nearly_blind(x: Tensor, at: At) -> Tensor:
    return 0 * x.sum(1)


def test_the_score_and_denoiser_of_a_mixture_are_the_derivatives_of_its_density():
    x = NOISE.clone().requires_grad_()
    sigma = torch.linspace(0.1, 2.0, 64, dtype=torch.float64)
    (score,) = torch.autograd.grad(DATA.log_density(x, sigma).sum(), x)
    assert_close(DATA.score(NOISE, sigma), score)
    assert_close(DATA.denoised(NOISE, sigma), NOISE + sigma[:, None] ** 2 * score)


def test_samples_of_a_mixture_have_its_mean_and_spread():
    points = DATA.sample(20_000, StepRng(0, 0, "points"))
    assert_close(points.mean(0), DATA.weights @ DATA.means, atol=0.02, rtol=0)
    spread = DATA.weights @ (DATA.means - DATA.weights @ DATA.means) ** 2 + DATA.std**2
    assert_close(points.var(0), spread, atol=0.02, rtol=0)


def test_an_exact_discriminator_turns_the_models_law_into_the_datas():
    assert_close(samples(ratio_guide()), heun(DATA.denoise, NOISE * GRID[0], GRID), atol=1e-9, rtol=0)


def test_an_exact_discriminator_makes_the_guided_laws_error_fall():
    def error(x: Tensor) -> float:
        zero = torch.full((len(x),), 1e-3, dtype=torch.float64)
        return -DATA.log_density(x, zero).mean().item()

    assert error(samples(ratio_guide(1.0))) < error(samples(ratio_guide(0.5))) < error(samples())


@pytest.mark.parametrize("log_weight", [blind, nearly_blind])
def test_a_constant_guide_changes_no_bit(log_weight: LogWeight):
    assert torch.equal(samples(Guide(log_weight, constant(3.0))), samples())


def test_a_guide_of_weight_zero_changes_no_bit():
    assert torch.equal(samples(ratio_guide(0.0)), samples())


def test_guides_commute_and_compose():
    first, second = ratio_guide(), ratio_guide(0.4, OTHER, DATA)
    both = samples(first, second)
    assert_close(samples(second, first), both, atol=1e-12, rtol=0)
    nested = heun(guided(guided(MODEL.denoise, first), second), NOISE * GRID[0], GRID)
    assert_close(nested, both, atol=1e-12, rtol=0)


def test_two_guides_make_one_backward_pass():
    passes = 0

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, *gradients: Tensor) -> Tensor:
            nonlocal passes
            passes += 1
            return gradients[0]

    features: dict[int, Tensor] = {}

    def shared(x: Tensor, at: At) -> Tensor:
        if id(x) not in features:
            features[id(x)] = Watched.apply(x)
        return features[id(x)].sum(1)

    guided(MODEL.denoise, *[Guide(shared, constant(1.0))] * 3)(NOISE, At(torch.ones(64, dtype=torch.float64), 0))
    assert passes == 1


def test_outside_its_window_a_guide_is_not_called_and_its_log_ratio_is_large():
    def never(x: Tensor, at: At) -> Tensor:
        raise AssertionError("called")

    guide = Guide(never, constant(1.0), sigma_min=0.1, sigma_max=1.0, is_density_ratio=True)
    for sigma in (0.05, 2.0):
        prediction = guided(MODEL.denoise, guide)(NOISE, At(torch.full((64,), sigma, dtype=torch.float64), 0))
        assert prediction.guidance_score is None
        assert (prediction.log_ratio == LOG_RATIO_OUTSIDE).all()


def test_each_sample_has_its_own_window_unless_the_batch_stays_together():
    sigma = torch.tensor([0.5] * 32 + [2.0] * 32, dtype=torch.float64)
    guide = Guide(log_ratio(DATA, MODEL), constant(1.0), sigma_max=1.0, is_density_ratio=True)
    alone = guided(MODEL.denoise, guide)(NOISE, At(sigma, 0))
    assert alone.guidance_score is not None
    assert alone.log_ratio is not None
    assert alone.guidance_score[:32].ne(0).any()
    assert alone.guidance_score[32:].eq(0).all()
    assert (alone.log_ratio[32:] == LOG_RATIO_OUTSIDE).all()
    together = Guide(guide.log_weight, guide.weight, sigma_max=1.0, is_density_ratio=True, together=True)
    score = guided(MODEL.denoise, together)(NOISE, At(sigma, 0)).guidance_score
    assert score is not None
    assert score[32:].ne(0).any()


def test_a_guide_of_first_orders_is_not_called_in_second_ones():
    orders: list[int] = []

    def noted(x: Tensor, at: At) -> Tensor:
        orders.append(at.order)
        return x.sum(1)

    samples(Guide(noted, constant(1.0), orders=(1,)))
    assert orders == [1] * 40


def test_boosting_doubles_the_weight_where_the_log_ratio_is_negative_in_every_other_step():
    law = boosted(constant(1.5), factor=2.0, period=2)
    doubt, sigma = torch.tensor([-0.1, 0.0, 3.0]), torch.ones(3, dtype=torch.float64)
    assert law(At(sigma, 0), doubt).tolist() == [3.0, 1.5, 1.5]
    assert law(At(sigma, 1), doubt).tolist() == [1.5, 1.5, 1.5]
    assert law(At(sigma, 2, order=2), doubt).tolist() == [1.5, 1.5, 1.5]


def test_only_density_ratios_reach_the_sampler():
    prediction = guided(MODEL.denoise, Guide(log_ratio(DATA, MODEL), constant(1.0)))(
        NOISE, At(torch.ones(64, dtype=torch.float64), 0)
    )
    assert prediction.guidance_score is not None
    assert prediction.log_ratio is None


def test_guidance_does_not_change_the_predicted_image():
    def frozen(x: Tensor, at: At) -> Prediction:
        return Prediction(x * 0.25)

    prediction = guided(frozen, ratio_guide())(NOISE, At(torch.ones(64, dtype=torch.float64), 0))
    assert torch.equal(prediction.x0, NOISE * 0.25)
