"""Every network of the few-step methods trains through the one loop and samples; impossible settings are refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.core.loop import TrainState, train_steps
from methods.core.rng import SeededRng, StepRng
from methods.core.types import Batch, DataSpec
from methods.ddgan import DDGAN
from methods.gan import GAN
from methods.nets.small.mixture_fourier import Coordinates
from methods.siddm import SIDDM
from methods.tdpm import TDPM

PICTURES = DataSpec((1, 8, 8), 3, 0.5)
POINTS = DataSpec((2,), 3, 3.5)
LABELS = torch.arange(8) % 3

NCSNPP: dict[str, Any] = {
    "net": "ncsnpp",
    "width": 8,
    "depth": 1,
    "channel_mult": (1, 2),
    "attention": (4,),
    "latent": 4,
    "style_width": 8,
    "mapping_layers": 1,
    "discriminator_width": 4,
}
UNET: dict[str, Any] = {"net": "unet", "width": 32, "depth": 1, "channel_mult": (1, 1), "attention": (4,)}
SIDDM_UNET = UNET | {"channel_mult": (2, 2), "head_width": 32}
MLP: dict[str, Any] = {"net": "mlp", "width": 16, "depth": 2}
SHORT: dict[str, Any] = {"lr_linear_from": 0.3, "ema": 0.99, "ema_warmup": True}
R1: dict[str, Any] = {"r1_gamma": 0.2, "r1_every": 1}
STYLEGAN: dict[str, Any] = {
    "discriminator": "stylegan2",
    "discriminator_base": 64,
    "discriminator_max": 16,
    "discriminator_lr": 2.5e-3,
}
FOURIER: dict[str, Any] = {"net": "mixture-fourier", "width": 16}

ON_PICTURES: dict[str, Callable[[], Any]] = {
    "ddgan-ncsnpp": lambda: DDGAN(**NCSNPP),
    "ddgan-ncsnpp-skips": lambda: DDGAN(**NCSNPP, image_in="skip", image_out="skip", norm_after="plain"),
    "ddgan-ncsnpp-conditional": lambda: DDGAN(**NCSNPP, conditional=True),
    "ddgan-mlp": lambda: DDGAN(**MLP, **SHORT, **R1, conditional=True, schedule="cosine", latent=16),
    "siddm-unet": lambda: SIDDM(**SIDDM_UNET, latent=0),
    "siddm-unet-conditional": lambda: SIDDM(**SIDDM_UNET, conditional=True, sees_pair=True),
    "siddm-mlp": lambda: SIDDM(**MLP, **SHORT, **R1, conditional=True, latent=16, trained_times="visited"),
    "siddm-mlp-pair": lambda: SIDDM(**MLP, sees_pair=True, c_target=None, clean_weight=None),
    "tdpm-unet": lambda: TDPM(kept=3, **UNET, **STYLEGAN),
    "tdpm-unet-separate": lambda: TDPM(
        kept=3, **UNET, prior="separate", conditional=True, discriminator="residual-mlp"
    ),
    "tdpm-mlp": lambda: TDPM(kept=3, **MLP, **SHORT, **R1, conditional=True, discriminator="residual-mlp"),
    "tdpm-without-a-chain": lambda: TDPM(kept=0, **MLP, conditional=True, discriminator="residual-mlp"),
    "gan-mlp": lambda: GAN(**MLP, **SHORT, **R1, conditional=True, latent=16),
    "gan-plain": lambda: GAN(),
}
ON_POINTS: dict[str, Callable[[], Any]] = {
    "ddgan-fourier": lambda: DDGAN(**FOURIER, latent=2),
    "siddm-fourier": lambda: SIDDM(**FOURIER, **SHORT, **R1, trained_times="visited"),
    "siddm-fourier-image": lambda: SIDDM(**FOURIER, sees="image", sees_pair=True, c_target=None, clean_weight=None),
    "gan-fourier": lambda: GAN(**FOURIER, **SHORT, **R1),
    "ddgan-mlp": lambda: DDGAN(**MLP, latent=2, conditional=True),
    "tdpm-mlp": lambda: TDPM(kept=3, **MLP),
}


def trained(method: Any, data: DataSpec, steps: int = 2) -> TrainState:
    state = TrainState.fresh(method, data, seed=0)
    x = torch.randn(16, *data.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    batch = Batch(x, torch.arange(16) % 3)
    for metrics in train_steps(method, state, lambda step: batch, seed=0, batch=16, steps=steps):
        assert all(value.isfinite() for value in metrics.values())
    return state


def sampled(method: Any, state: TrainState, labels: Tensor) -> Tensor:
    nets = {name: net.eval() for name, net in state.nets.items()}
    return method.sample(nets, method.Sampling(), labels, SeededRng(range(8)))


@pytest.mark.parametrize("name", ON_PICTURES)
def test_every_network_for_pictures_trains_and_samples(name: str) -> None:
    method = ON_PICTURES[name]()
    state = trained(method, PICTURES)
    made = sampled(method, state, LABELS)
    assert made.shape == (8, 1, 8, 8)
    assert made.isfinite().all()
    heeded = not torch.equal(made, sampled(method, state, LABELS.roll(1)))
    assert heeded == method.conditional


@pytest.mark.parametrize("name", ON_POINTS)
def test_every_network_for_points_trains_and_samples(name: str) -> None:
    method = ON_POINTS[name]()
    made = sampled(method, trained(method, POINTS), LABELS)
    assert made.shape == (8, 2)
    assert made.isfinite().all()


@pytest.mark.parametrize("name", ON_PICTURES)
def test_unlabelled_data_need_no_other_settings(name: str) -> None:
    method = ON_PICTURES[name]()
    state = TrainState.fresh(method, DataSpec((1, 8, 8), 0, 0.5), seed=0)
    batch = Batch(torch.zeros(16, 1, 8, 8))
    next(train_steps(method, state, lambda step: batch, seed=0, batch=16, steps=1))
    assert method.sample(state.nets, method.Sampling(), None, SeededRng(range(2))).isfinite().all()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: DDGAN(conditional=True), "conditional"),
        (lambda: SIDDM(net="mixture-fourier", conditional=True), "conditional"),
        (lambda: GAN(conditional=True), "conditional"),
        (lambda: TDPM(conditional=True), "discriminator"),
        (lambda: DDGAN(net="mlp", dropout=0.1), "dropout"),
        (lambda: TDPM(dropout=0.1), "dropout"),
        (lambda: SIDDM(net="unet", dropout=1.0), "dropout"),
        (lambda: SIDDM(width=0), "width"),
        (lambda: DDGAN(depth=0), "depth"),
        (lambda: DDGAN(channel_mult=()), "channel_mult"),
        (lambda: SIDDM(latent=-1), "latent"),
        (lambda: DDGAN(lr_linear_from=1.0), "lr_linear_from"),
        (lambda: GAN(ema_warmup=True), "ema_warmup"),
        (lambda: SIDDM(r1_gamma=-1.0), "r1_gamma"),
        (lambda: SIDDM(adversarial_weight=-1.0), "adversarial_weight"),
        (lambda: SIDDM(afd_weight=-0.1), "afd_weight"),
        (lambda: SIDDM(clean_weight=-1.0), "clean_weight"),
        (lambda: SIDDM(afd_weight=float("nan")), "afd_weight"),
        (lambda: SIDDM(generator_lr=-1e-4), "generator_lr"),
        (lambda: DDGAN(lr_min=-1e-4), "lr_min"),
        (lambda: DDGAN(schedule="geometric", beta_min=0.1, beta_max=1.0), "beta_max"),
        (lambda: GAN(discriminator_lr=-1e-4), "discriminator_lr"),
        (lambda: TDPM(prior_lr=-1e-4), "prior_lr"),
        (lambda: TDPM(kept=1000, release_indexing=True), "kept"),
        (lambda: SIDDM(afd_clip=0.0), "afd_clip"),
        (lambda: SIDDM(afd_weight_last=0.1), "afd_anneal"),
        (lambda: SIDDM(afd_weight_last=0.1, afd_anneal=(5, 5)), "afd_anneal"),
        (lambda: SIDDM(afd_weight=0.0, afd_weight_last=0.1, afd_anneal=(0, 5)), "afd_weight"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(make: Callable[[], object], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        make()


@pytest.mark.parametrize("make", [lambda: DDGAN(**NCSNPP), lambda: SIDDM(**SIDDM_UNET), lambda: TDPM(**UNET)])
def test_networks_for_pictures_refuse_points(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="square images"):
        make().build(POINTS)


@pytest.mark.parametrize("make", [lambda: DDGAN(**FOURIER), lambda: SIDDM(), lambda: GAN(**FOURIER)])
def test_networks_for_points_refuse_pictures(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="points of shape"):
        make().build(PICTURES)


def test_a_batch_that_residual_discriminators_cannot_group_is_refused() -> None:
    method = GAN(**MLP)
    batch = Batch(torch.zeros(6, 1, 8, 8), LABELS[:6])
    draws = method.draw("discriminator", batch, StepRng(0, 0, "discriminator"))
    with pytest.raises(ValueError, match="6 images does not divide into groups of 4"):
        method.loss("discriminator", method.build(PICTURES), batch, draws, 0)


def test_the_weight_of_the_forward_terms_is_annealed_in_equal_ratios() -> None:
    method = SIDDM(afd_weight=1.0, afd_weight_last=0.01, afd_anneal=(20, 70))
    weights = [method.afd_weight_at(step) for step in (0, 20, 45, 70, 99)]
    assert weights == pytest.approx([1.0, 1.0, 0.1, 0.01, 0.01])
    assert SIDDM(afd_weight=0.5).afd_weight_at(99) == 0.5


def test_visited_times_come_in_equal_shares() -> None:
    method = SIDDM(trained_times="visited")
    u = method.draw("generator", Batch(torch.zeros(8, 2)), StepRng(0, 0, "generator"))["u"]
    assert sorted(u.tolist()) == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0]
    second_worker = StepRng(0, 0, "generator", range(16, 32))
    u = replace(method, steps=3).draw("generator", Batch(torch.zeros(16, 2)), second_worker)["u"]
    torch.testing.assert_close(u, (torch.arange(16, 32) % 3 + 1) / 3)


def test_coordinates_enter_at_five_octaves_of_the_datas_own_scale() -> None:
    seen = Coordinates(2, std=2.0)
    x = torch.tensor([[1.0, -3.0]])
    output = seen(x)
    assert output.shape == (1, seen.width)
    phases = torch.cat([x / 2 * 2**octave for octave in range(5)], dim=1)
    torch.testing.assert_close(output, torch.cat([x, phases.sin(), phases.cos()], dim=1))


def test_mixture_mlp_loud_differs_from_mixture_mlp_only_by_the_initial_weights_of_coordinates() -> None:
    data = DataSpec((2,), 0, 3.5)
    plain, scaled = (
        TrainState.fresh(SIDDM(net=net, sees_pair=True), data, seed=0) for net in ("mixture-mlp", "mixture-mlp-loud")
    )
    for net, first in {"generator": "decode.0.weight", "discriminator": "encode.0.weight"}.items():
        a, b = (dict(state.nets[net].named_parameters()) for state in (plain, scaled))
        assert [name for name in a if not torch.equal(a[name], b[name])] == [first]
        ratio = b[first] / a[first]
        coordinates = ratio[:, [0, 1]] if net == "generator" else ratio[:, [0, 1, -2, -1]]
        torch.testing.assert_close(coordinates, torch.full_like(coordinates, 20.0))
        torch.testing.assert_close(ratio[:, 2:-2], torch.ones_like(ratio[:, 2:-2]))
