"""The discriminator as a method and as a guide."""

import dataclasses
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from methods.core.density.mixtures import Mixture, log_ratio
from methods.core.guidance import Guide, constant, guided
from methods.core.loop import TrainState, train_steps
from methods.core.process.noise import LinearVP, edm_grid
from methods.core.rng import SeededRng, StepRng
from methods.core.sampling.samplers import heun
from methods.core.types import At, Batch, DataSpec
from methods.discriminator_guidance import (
    Discriminator,
    RatioEstimator,
    Use,
    density_ratio_guide,
    log_softplus,
    ratio_loss,
)
from methods.edm import EDM

POINTS = DataSpec((2,), 0, 0.7)
PICTURES = DataSpec((1, 8, 8), 10, 0.5)
MLP = Discriminator(body="mlp", width=32, depth=2, lr=3e-3)
CONV = Discriminator(body="conv", width=8, depth=1)
DATA = Mixture(torch.tensor([[0.8, 0.0], [-0.8, 0.0]]), 0.25, torch.tensor([0.5, 0.5]))
MODEL = Mixture(torch.tensor([[0.6, 0.3], [-0.9, 0.1]]), 0.35, torch.tensor([0.3, 0.7]))


def pairs(step: int, count: int = 256) -> Batch:
    rng = StepRng(3, step, "pairs")
    return Batch(DATA.sample(count, rng), None, MODEL.sample(count, rng), None)


def picture_pairs(count: int = 5) -> Batch:
    rng = StepRng(0, 0, "pictures")
    labels = torch.arange(count) % 10
    return Batch(rng.uniform(count, 1, 8, 8), labels, rng.uniform(count, 1, 8, 8) - 1, labels.flip(0))


def exact_log_odds(x_vp, tau):
    x = x_vp.double() / LinearVP().mean(tau)[:, None]
    return log_ratio(DATA, MODEL)(x, At(LinearVP().sigma(tau), 0))


def trained(steps: int) -> TrainState:
    state = TrainState.fresh(MLP, POINTS, seed=0)
    for _ in train_steps(MLP, state, pairs, seed=0, batch=256, steps=steps):
        pass
    return state


@pytest.fixture(scope="module")
def trained_state() -> TrainState:
    return trained(600)


def held_out_loss(nets) -> float:
    batch = pairs(10**6, 4000)
    return MLP.loss("discriminator", nets, batch, MLP.draw("discriminator", batch, StepRng(1, 0, "held-out")), 0)[
        0
    ].item()


def test_training_approaches_the_exact_discriminators_loss(trained_state: TrainState):
    class Exact(RatioEstimator):
        def forward(self, x_vp, tau, labels=None):
            return exact_log_odds(x_vp, tau)

    least = held_out_loss({"discriminator": Exact(torch.nn.Identity(), 0, "linear")})
    fresh = held_out_loss(TrainState.fresh(MLP, POINTS, seed=0).nets)
    learned = held_out_loss(trained_state.nets)
    assert least < learned < least + 0.15 * (fresh - least)


def test_the_learned_correction_points_where_the_exact_one_does(trained_state: TrainState):
    x = DATA.sample(2000, StepRng(0, 0, "x")).double() + 0.3 * torch.randn(2000, 2).double()
    at = At(torch.full((2000,), 0.3, dtype=torch.float64), 0)
    ours = guided(MODEL.denoise, MLP.guide(trained_state.nets, None, Use(1.0)))(x, at).guidance_score
    exact = guided(MODEL.denoise, density_ratio_guide(exact_log_odds, Use(1.0)))(x, at).guidance_score
    assert ours is not None
    assert exact is not None
    assert torch.cosine_similarity(ours, exact).median() > 0.9


def test_guidance_brings_a_models_samples_closer_to_the_data(trained_state: TrainState):
    grid = edm_grid(18)
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * grid[0]

    def surprise(use: Use) -> float:
        x = heun(guided(MODEL.denoise, MLP.guide(trained_state.nets, None, use)), noise, grid)
        return -DATA.log_density(x, torch.full((1000,), 1e-3, dtype=torch.float64)).mean().item()

    assert surprise(Use(2.0)) < surprise(Use(1.0)) < surprise(Use(0.0))


def test_the_loss_of_the_same_draws_is_the_same():
    nets, batch = CONV.build(PICTURES), picture_pairs()
    draws = CONV.draw("discriminator", batch, StepRng(0, 0, "discriminator"))
    first, metrics = CONV.loss("discriminator", nets, batch, draws, 0)
    assert torch.equal(first, CONV.loss("discriminator", nets, batch, draws, 3)[0])
    assert set(metrics) == {"bce", "accuracy"}


@pytest.mark.parametrize(
    "method", [CONV, dataclasses.replace(MLP, conditional=True), dataclasses.replace(CONV, clock="cosine")]
)
def test_every_body_guides_a_denoiser_of_pictures(method: Discriminator):
    torch.manual_seed(0)
    edm = EDM(net="mlp", width=16, depth=1)
    nets, denoiser, labels = method.build(PICTURES), edm.build(PICTURES), torch.arange(6)
    use = Use(weight=2.0, second_weight=1.0, boost=True)
    sampling = EDM.Sampling(steps=6, boost_churn=4.0)
    images = edm.sample(
        denoiser,
        sampling,
        labels,
        SeededRng(range(6)),
        lambda denoise: guided(denoise, method.guide(nets, labels, use)),
    )
    plain = edm.sample(denoiser, sampling, labels, SeededRng(range(6)))
    assert images.isfinite().all()
    assert not torch.equal(images, plain)


def test_labels_matter_to_a_conditional_discriminator_alone():
    x, tau, labels = torch.randn(4, 1, 8, 8), torch.full((4,), 0.3, dtype=torch.float64), torch.arange(4)
    discriminate = CONV.build(PICTURES)["discriminator"]
    assert not torch.equal(discriminate(x, tau, labels), discriminate(x, tau, labels + 1))
    with pytest.raises(ValueError, match="labels"):
        discriminate(x, tau)
    discriminate = dataclasses.replace(CONV, conditional=False).build(PICTURES)["discriminator"]
    assert torch.equal(discriminate(x, tau, labels), discriminate(x, tau))


def test_the_guidance_score_is_zero_where_the_discriminator_is_certain():
    def certain(x_vp, tau):
        return 20 * torch.tanh(100 * x_vp[:, 0])

    x = torch.tensor([[0.5, 0.0], [0.0, 0.0]], dtype=torch.float64)
    at = At(torch.full((2,), 0.5, dtype=torch.float64), 0)
    prediction = guided(MODEL.denoise, density_ratio_guide(certain, Use(1.0, clip=1e-5)))(x, at)
    assert prediction.guidance_score is not None
    assert prediction.log_ratio is not None
    assert prediction.guidance_score[0].eq(0).all()
    assert prediction.guidance_score[1, 0] > 0
    assert_close(prediction.log_ratio[0].item(), 11.51291546)


def test_it_acts_between_its_times_and_in_the_orders_that_have_weight():
    guide = density_ratio_guide(exact_log_odds, Use(weight=2.0, time_min=0.01, time_max=0.5))
    tau = LinearVP().time(torch.tensor([guide.sigma_min, guide.sigma_max], dtype=torch.float64))
    assert_close(tau, torch.tensor([0.01, 0.5], dtype=torch.float64))
    assert guide.orders == (1,)
    assert density_ratio_guide(exact_log_odds, Use(weight=0.0)).orders == ()
    assert density_ratio_guide(exact_log_odds, Use(weight=1.0, second_weight=1.0)).orders == (1, 2)


def test_without_fakes_there_is_nothing_to_learn():
    batch = picture_pairs()._replace(fakes=None)
    with pytest.raises(ValueError, match="samples of a generator"):
        CONV.loss("discriminator", CONV.build(PICTURES), batch, {}, 0)


@pytest.mark.parametrize(
    "settings", [{"width": 0}, {"depth": 0}, {"time_min": 0.0}, {"lr": 0.0}, {"weight_decay": -1.0}, {"dropout": 1.0}]
)
def test_impossible_settings_are_named(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: .* came, .* wanted"):
        Discriminator(**settings)


@pytest.mark.parametrize("settings", [{"time_min": 0.0}, {"time_min": 0.9, "time_max": 0.5}, {"clip": 0.5}])
def test_impossible_uses_are_named(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: .* came, .* wanted"):
        Use(**settings)


def test_a_convolutional_body_for_points_is_refused():
    with pytest.raises(ValueError, match="mlp"):
        CONV.build(POINTS)


@pytest.mark.parametrize("kind", ["bce", "lsif", "ukl"])
def test_every_density_ratio_loss_is_least_at_the_true_ratio(kind):
    """On cells of a line with known densities, the gradient with respect to log r is zero there and only there."""
    data, model = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]], dtype=torch.float64)
    real, fake = (torch.arange(3).repeat_interleave((1000 * law).round().long()) for law in (data, model))
    exact = (data / model).log()
    for shift in (0.0, 0.3):
        at = (exact + shift).requires_grad_()
        (gradient,) = torch.autograd.grad(ratio_loss(at[real], at[fake], kind), at)
        assert (gradient.abs().max() < 1e-9) == (shift == 0.0)


@pytest.mark.parametrize("kind", ["lsif", "ukl"])
def test_other_density_ratios_train_and_guide_as_the_discriminator_does(kind):
    method = dataclasses.replace(MLP, density_ratio=kind)
    state = TrainState.fresh(method, POINTS, seed=0)
    metrics = list(train_steps(method, state, pairs, seed=0, batch=256, steps=150))
    assert metrics[-1].keys() == {kind, "accuracy"}
    x = DATA.sample(2000, StepRng(0, 0, "x")).double() + 0.3 * torch.randn(2000, 2).double()
    at = At(torch.full((2000,), 0.3, dtype=torch.float64), 0)
    ours = guided(MODEL.denoise, method.guide(state.nets, None, Use(1.0)))(x, at).guidance_score
    exact = guided(MODEL.denoise, density_ratio_guide(exact_log_odds, Use(1.0)))(x, at).guidance_score
    assert ours is not None
    assert exact is not None
    assert torch.cosine_similarity(ours, exact).median() > 0.8


def test_the_softplus_ratio_keeps_its_logarithm_far_below_zero():
    raw = torch.tensor([-200.0, -30.0, -15.0, -14.9, 0.0, 50.0], requires_grad=True)
    prediction = log_softplus(raw)
    assert_close(
        prediction.detach(), torch.nn.functional.softplus(raw.detach().double()).clamp(min=1e-300).log().float()
    )
    (slope,) = torch.autograd.grad(prediction.sum(), raw)
    assert slope.isfinite().all()


def test_its_weight_switches_on_the_way():
    law = Use(2.0, late_weight=0.5, switch_time=0.4, boost=True, boost_factor=0.75).law
    tau = torch.tensor([0.5, 0.3, 0.5, 0.3], dtype=torch.float64)
    doubt = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert_close(law(At(LinearVP().sigma(tau), 0), doubt).float(), torch.tensor([2.0, 0.5, 1.5, 0.375]))
    assert Use(0.0, late_weight=1.0).orders == (1,)


def test_with_norm_scaling_its_score_has_the_norm_of_the_classifiers():
    x = DATA.sample(64, StepRng(0, 0, "x")).double()
    at = At(torch.full((64,), 0.3, dtype=torch.float64), 0)
    slope = torch.tensor([3.0, -4.0]).double()
    other = Guide(lambda x, at: (x * slope).sum(1), constant(0.5))
    ratio = density_ratio_guide(exact_log_odds, Use(2.0, norm_scaling=True))
    plain = guided(MODEL.denoise, density_ratio_guide(exact_log_odds, Use(1.0)))(x, at).guidance_score
    for guides in ((other, ratio), (ratio, other)):
        guidance_score = guided(MODEL.denoise, *guides)(x, at).guidance_score
        assert guidance_score is not None
        assert plain is not None
        assert_close(guidance_score, 0.5 * slope + 2 * 5 * plain / plain.norm(dim=1, keepdim=True))
    blind = density_ratio_guide(lambda x_vp, tau: 0 * x_vp.sum(1), Use(2.0, norm_scaling=True))
    assert_close(guided(MODEL.denoise, other, blind)(x, at).guidance_score, (0.5 * slope).expand(64, 2))
    with pytest.raises(ValueError, match="norm_scaling"):
        guided(MODEL.denoise, ratio)


def test_a_use_with_settings_that_have_no_effect_raises_an_error():
    wrong: list[dict[str, Any]] = [{"boost_factor": 3.0}, {"switch_time": 0.5}, {"boost": True, "boost_factor": 0.0}]
    for settings in wrong:
        with pytest.raises(ValueError, match=f"{list(settings)[-1]}: .* came, .* wanted"):
            Use(**settings)
    with pytest.raises(ValueError, match="sigma_min: 2 came"):
        Guide(lambda x, at: x.sum(1), constant(1.0), sigma_min=2, sigma_max=1)
