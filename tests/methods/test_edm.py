"""EDM as a method: loss, schedules, sampler and invalid settings."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from methods.core.density.mixtures import Mixture
from methods.core.loop import TrainState, train_steps
from methods.core.process.denoise import EDMScheme, Preconditioned
from methods.core.rng import SeededRng, StepRng
from methods.core.training.augment import AUGMENT_LABELS, Transform, augment, draw_transform, identity, labels_of
from methods.core.types import At, Batch, DataSpec, Denoiser, Prediction, Progress
from methods.edm import EDM

POINTS = DataSpec((2,), 3, 0.7)
PICTURES = DataSpec((1, 8, 8), 10, 0.5)
POINT_EDM = EDM(net="mlp", width=32, depth=2, lr_rampup_images=0, ema_halflife_images=2000)
PICTURE_EDM = EDM(width=8, depth=1, channel_mult=(1, 2), attention=(4,), augment=0.5)
WORLD = Mixture(torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]]), 0.1, torch.full((3,), 1 / 3))


def picture_batch(count: int = 6) -> Batch:
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(images, torch.arange(count) % 10)


def point_batch(step: int, count: int = 128) -> Batch:
    component = StepRng(7, step, "label").integers(3, count)
    return Batch(WORLD.means[component] + WORLD.std * StepRng(7, step, "data").normal(count, 2), component)


def fresh(method: EDM, data: DataSpec) -> dict[str, Preconditioned]:
    torch.manual_seed(0)
    return method.build(data)  # type: ignore[return-value]


@pytest.mark.parametrize("net", ["song-unet", "ncsnpp", "adm"])
def test_every_unet_trains_and_samples(net):
    method = dataclasses.replace(PICTURE_EDM, net=net)
    nets = fresh(method, PICTURES)
    batch = picture_batch()
    loss, _ = method.loss("denoiser", nets, batch, method.draw("denoiser", batch, StepRng(0, 0, "denoiser")), 0)
    loss.backward()
    assert all(p.grad is not None for p in nets["denoiser"].parameters())
    images = method.sample(nets, EDM.Sampling(steps=2), batch.labels, SeededRng(range(6)))
    assert images.shape == batch.images.shape
    assert images.dtype == torch.float32


def test_the_loss_of_the_same_draws_is_the_same():
    nets, batch = fresh(POINT_EDM, POINTS), point_batch(0)
    draws = POINT_EDM.draw("denoiser", batch, StepRng(0, 0, "denoiser"))
    first, second = (POINT_EDM.loss("denoiser", nets, batch, draws, step)[0] for step in (0, 5))
    assert torch.equal(first, second)


def test_the_loss_is_summed_over_an_images_values():
    batch = picture_batch()
    nets = fresh(method := dataclasses.replace(PICTURE_EDM, augment=0.0, dropout=0.0, sigma_data=0.5), PICTURES)
    draws = method.draw("denoiser", batch, StepRng(0, 0, "denoiser"))
    loss, metrics = method.loss("denoiser", nets, batch, draws, 0)
    sigma = (1.2 * draws["level"] - 1.2).exp()
    noisy = batch.images + sigma[:, None, None, None] * draws["noise"]
    errors = (nets["denoiser"](noisy, sigma, batch.labels) - batch.images).square().sum((1, 2, 3))
    assert_close(loss, (errors * (sigma**2 + 0.25) / (sigma * 0.5) ** 2).mean())
    assert_close(metrics["loss"], loss.detach())


def test_training_on_a_mixture_learns_its_denoiser():
    state = TrainState.fresh(POINT_EDM, POINTS, seed=0)
    losses = [m["loss"].item() for m in train_steps(POINT_EDM, state, point_batch, seed=0, batch=128, steps=400)]
    assert sum(losses[-50:]) < 0.75 * sum(losses[:50])
    batch, sigma = point_batch(1000, 512), torch.full((512,), 0.5)
    x = batch.images + 0.5 * StepRng(0, 0, "x").normal(512, 2)
    learned = state.nets["denoiser"](x, sigma, batch.labels)
    exact = WORLD.means[batch.labels] + (x - WORLD.means[batch.labels]) * 0.01 / (0.01 + 0.25)
    assert (learned - exact).square().mean() < 0.1 * (x - exact).square().mean()


def test_samples_depend_on_labels_and_an_unconditional_network_ignores_them():
    assert fresh(POINT_EDM, POINTS)["denoiser"].classes == 3
    method = dataclasses.replace(POINT_EDM, conditional=False)
    nets = fresh(method, POINTS)
    assert nets["denoiser"].classes == 0
    labels = torch.tensor([0, 1, 2])
    labelled = method.sample(nets, EDM.Sampling(steps=2), labels, SeededRng(range(3)))
    assert torch.equal(labelled, method.sample(nets, EDM.Sampling(steps=2), None, SeededRng(range(3))))
    with pytest.raises(ValueError, match="classes"):
        nets["denoiser"](torch.zeros(3, 2), torch.ones(3), labels)


def test_sigma_data_is_the_datas_unless_it_is_set():
    for method, sigma_data in ((POINT_EDM, 0.7), (dataclasses.replace(POINT_EDM, sigma_data=0.5), 0.5)):
        scheme = fresh(method, POINTS)["denoiser"].scheme
        assert isinstance(scheme, EDMScheme)
        assert scheme.sigma_data == sigma_data


def test_a_fresh_denoiser_is_the_best_that_is_linear():
    net = fresh(POINT_EDM, POINTS)["denoiser"]
    x, sigma = torch.randn(5, 2), torch.tensor([0.01, 0.1, 1.0, 10.0, 80.0])
    assert_close(net(x, sigma), x * (0.49 / (0.49 + sigma**2))[:, None])


def test_a_float64_network_answers_in_float64_and_samples_alike():
    nets, rng = fresh(POINT_EDM, POINTS), lambda: SeededRng(range(4))
    single = POINT_EDM.sample(nets, EDM.Sampling(steps=4), None, rng())
    nets["denoiser"].double()
    assert nets["denoiser"](torch.zeros(1, 2), torch.ones(1)).dtype == torch.float64
    assert_close(POINT_EDM.sample(nets, EDM.Sampling(steps=4), None, rng()), single, atol=1e-4, rtol=0)


def test_the_first_learning_rate_is_zero_and_the_rest_follow_the_images_seen():
    method = EDM(lr=2.0, lr_rampup_images=1000)
    rates = [method.learning_rate(Progress(step, 100, 40)) for step in (0, 5, 10, 39)]
    assert rates == [0.0, 1.0, 2.0, 2.0]
    decayed = dataclasses.replace(method, lr_rampup_images=0, lr_decay="linear")
    assert [decayed.learning_rate(Progress(step, 100, 40)) for step in (0, 10, 30)] == [2.0, 1.5, 0.5]


def test_the_averages_half_life_is_at_most_a_share_of_the_images_seen():
    method = EDM(ema_halflife_images=1000, ema_rampup=0.5)
    assert method.ema_decay(Progress(0, 100, 10)) == 0.0
    assert_close(method.ema_decay(Progress(4, 100, 10)), 0.5 ** (100 / 200))
    assert_close(method.ema_decay(Progress(1000, 100, 10)), 0.5 ** (100 / 1000))


def test_a_wrapped_denoiser_is_the_one_that_samples():
    def silent(denoise: Denoiser) -> Denoiser:
        return lambda x, at: Prediction(torch.zeros_like(x))

    nets = fresh(POINT_EDM, POINTS)
    images = POINT_EDM.sample(nets, EDM.Sampling(steps=3), None, SeededRng(range(2)), wrap=silent)
    assert images.eq(0).all()


def test_churn_is_drawn_from_each_images_own_stream():
    nets, sampling = fresh(POINT_EDM, POINTS), EDM.Sampling(steps=5, churn=10.0)
    pair = POINT_EDM.sample(nets, sampling, None, SeededRng([3, 4]))
    alone = POINT_EDM.sample(nets, sampling, None, SeededRng([4, 9]))
    assert_close(pair[1], alone[0], atol=1e-6, rtol=0)


def test_the_denoiser_calls_the_network_at_the_samplers_noise_level():
    net = fresh(POINT_EDM, POINTS)["denoiser"]
    x, sigma, labels = torch.randn(3, 2).double(), torch.tensor([0.1, 1.0, 2.0]).double(), torch.arange(3)
    assert torch.equal(POINT_EDM.denoiser(net, labels)(x, At(sigma, 0)).x0, net(x, sigma, labels))


@pytest.mark.parametrize(
    "settings",
    [{"p_std": 0}, {"lr": 0.0}, {"width": 0}, {"dropout": 1.5}, {"augment": -0.1}, {"net": "mlp", "augment": 0.1},
     {"sigma_data": 0.0}, {"channel_mult": ()}, {"ema_halflife_images": 0}, {"net": "mlp", "dropout": 0.1}],
)  # fmt: skip
def test_impossible_settings_are_named(settings):
    with pytest.raises(ValueError, match=f"{list(settings)[-1]}: .* came, .* wanted"):
        EDM(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"sigma_min": 0.0}, {"sigma_max": 0.001}, {"rho": 0}, {"churn": -1.0}, {"boost_period": 0}],
)
def test_impossible_sampling_settings_are_named(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: .* came, .* wanted"):
        EDM.Sampling(**settings)


def test_a_unet_for_points_is_refused():
    with pytest.raises(ValueError, match="mlp"):
        EDM().build(POINTS)


def smooth_picture() -> Tensor:
    place = torch.linspace(-1, 1, 32, dtype=torch.float64)
    return torch.exp(-8 * ((place[:, None] - 0.2) ** 2 + (place[None, :] + 0.1) ** 2))[None, None]


def transform(**changes: Tensor) -> Transform:
    return Transform(*[value.double() for value in identity(1)._replace(**changes)])


def test_the_identity_hardly_changes_a_smooth_picture():
    assert_close(augment(smooth_picture(), transform()), smooth_picture(), atol=2e-3, rtol=0)


def test_a_quarter_turn_is_a_quarter_turn():
    turned = augment(smooth_picture(), transform(rotate=torch.tensor([torch.pi / 2])))
    assert_close(turned, smooth_picture().rot90(1, (2, 3)), atol=2e-2, rtol=0)


def test_a_translation_by_four_pixels_shifts_by_four_pixels():
    moved = augment(smooth_picture(), transform(translate=torch.tensor([[1.0, 0.0]])))
    assert_close(moved[..., 8:-8], smooth_picture().roll(4, 3)[..., 8:-8], atol=2e-3, rtol=0)


def test_the_labels_of_unchanged_images_are_zero():
    assert labels_of(identity(4)).eq(0).all()
    assert labels_of(identity(4)).shape == (4, AUGMENT_LABELS)


def test_each_augmentation_has_its_probability():
    drawn = Transform(**draw_transform(20_000, 0.3, StepRng(0, 0, "augment")))
    for name, probability in {"xflip": 0.5, "yflip": 0.15, "scale": 0.3, "rotate": 0.3, "aniso": 0.3}.items():
        assert abs(getattr(drawn, name).ne(0).float().mean().item() - probability) < 0.015
    assert abs(drawn.aniso_axis.ne(0).float().mean().item() - 0.15) < 0.015
