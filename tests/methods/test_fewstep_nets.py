"""Networks of the few-step methods: what golden files do not cover, and resampling by its definition."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from methods.core.training.adversarial import squared_gradient
from methods.nets.adm.ddpm_unet import DDPMUNet
from methods.nets.fir import FirConv, conv_down, fir
from methods.nets.minibatch_std import with_deviation
from methods.nets.ncsnpp.blocks import NormAfter
from methods.nets.ncsnpp.discriminator import DDGANDiscriminator
from methods.nets.ncsnpp.generator import NCSNppGenerator, Pyramid
from methods.nets.siddm.unet import SIDDMDiscriminator, SIDDMGenerator, Trunk
from methods.nets.stylegan2_discriminator import StyleGAN2Discriminator
from tests.methods.test_nets import train_a_step

SHAPE = (1, 8, 8)


def generator(**changes) -> NCSNppGenerator:
    settings: dict[str, Any] = {
        "latent": 4,
        "model_channels": 8,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "style_channels": 8,
    }
    return NCSNppGenerator(SHAPE, **(settings | {"attn_resolutions": (4,), "mapping_layers": 1} | changes))


def discriminator(**changes) -> DDGANDiscriminator:
    settings: dict[str, Any] = {"model_channels": 4, "time_channels": 8}
    return DDGANDiscriminator(1, **(settings | changes))


def unet(**changes) -> DDPMUNet:
    settings: dict[str, Any] = {
        "model_channels": 32,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (4,),
    }
    return DDPMUNet(SHAPE, dropout=0.0, **(settings | changes))


def trunk(channels: int = 1, **changes) -> Trunk:
    settings: dict[str, Any] = {
        "model_channels": 32,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (4,),
    }
    return Trunk(8, channels, **(settings | {"num_head_channels": 32, "dropout": 0.0} | changes))


def play(batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Images, indices, latents."""
    return torch.randn(batch, *SHAPE), torch.arange(batch), torch.randn(batch, 4)


def zeros_between(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 2H, 2W]."""
    wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[:, :, ::2, ::2] = x
    return wide


def filtered(x: Tensor, kernel: Tensor, before: int, after: int) -> Tensor:
    return torch.cat([F.conv2d(F.pad(c, (before, after) * 2), kernel) for c in x.split(1, dim=1)], dim=1)


def test_upsampling_equals_zeros_between_pixels_and_a_filter():
    x, layer = torch.randn(2, 3, 6, 6), fir("up")
    assert_close(layer(x), filtered(zeros_between(x), 4 * layer.resample_filter, 2, 1))


def test_a_convolution_while_upsampling_equals_zeros_between_pixels_and_both_filters():
    torch.manual_seed(0)
    x, layer = torch.randn(2, 3, 6, 6, dtype=torch.float64), FirConv(3, 5, "up").double()
    wide = F.pad(zeros_between(x), (4,) * 4)  # wide enough for the whole support of both filters
    plain = filtered(F.conv2d(wide, layer.weight), 4 * layer.resample_filter, 0, 0)
    assert_close(layer(x), plain[:, :, 1:13, 1:13])


@pytest.mark.parametrize("width", [1, 3])
def test_a_convolution_while_downsampling_equals_a_filter_and_every_second_pixel(width: int):
    torch.manual_seed(0)
    x, weight, kernel = torch.randn(2, 3, 6, 6), torch.randn(5, 3, width, width), fir("down").resample_filter
    smooth = filtered(x, kernel, 1 + width // 2, 1 + width // 2)
    assert_close(conv_down(x, weight, kernel), F.conv2d(smooth, weight)[:, :, ::2, ::2])


def test_the_deviation_is_over_images_a_quarter_of_the_batch_apart():
    x = torch.randn(8, 3, 2, 2, dtype=torch.float64)
    joined = with_deviation(x)
    assert torch.equal(joined[:, :3], x)
    for first in (0, 1):
        group = [first, first + 2, first + 4, first + 6]
        expected = (x[group].var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        assert_close(joined[group, 3], expected.expand(4, 2, 2))


def test_a_batch_that_does_not_divide_into_groups_is_refused():
    with pytest.raises(ValueError, match="6 images does not divide into groups of 4"):
        discriminator()(*(torch.randn(6, *SHAPE), torch.zeros(6), torch.randn(6, *SHAPE)))


@pytest.mark.parametrize("norm_after", ["adaptive", "plain"])
@pytest.mark.parametrize("image_in", ["none", "skip", "residual"])
@pytest.mark.parametrize("image_out", ["none", "skip", "residual"])
def test_every_pyramid_trains_every_parameter(norm_after: NormAfter, image_in: Pyramid, image_out: Pyramid):
    torch.manual_seed(0)
    net = generator(norm_after=norm_after, image_in=image_in, image_out=image_out, channel_mult=(1, 2, 2))
    x, index, z = play()
    train_a_step(net, lambda: net(x, index, z))
    gradients = {name: p.grad for name, p in net.named_parameters()}
    assert not [name for name, grad in gradients.items() if grad is None or (grad.ndim > 1 and not grad.any())]


def test_skip_pyramids_number_their_layers_as_the_official_code_does():
    layers = generator(image_in="skip", image_out="skip").all_modules
    kinds = [type(layer).__name__ for layer in layers]
    down = ["Linear", "Linear", "Conv2d", "ResBlock", "ResBlock", "Combine", "ResBlock", "AttentionBlock"]
    middle = ["ResBlock", "AttentionBlock", "ResBlock"]
    coarse = ["ResBlock", "ResBlock", "AttentionBlock", "GroupNorm", "Conv2d", "ResBlock"]
    assert kinds == [*down, *middle, *coarse, "ResBlock", "ResBlock", "GroupNorm", "Conv2d"]


def test_a_fresh_generators_output_is_almost_zero_and_within_its_range():
    torch.manual_seed(0)
    x, index, z = play()
    assert generator()(x, index, z).abs().max() < 1e-3
    scaled = generator()
    for parameter in scaled.parameters():
        nn.init.normal_(parameter)
    assert scaled(x, index, z).abs().max() <= 1
    scaled.tanh = False
    assert scaled(x, index, z).abs().max() > 1


def test_networks_with_classes_depend_on_labels_and_others_refuse_them():
    torch.manual_seed(0)
    x, index, z = play()
    labels = torch.tensor([0, 1, 2, 0])
    made = NCSNppGenerator(SHAPE, latent=4, model_channels=8, channel_mult=(1, 2), num_res_blocks=1, classes=3)
    discriminate, denoiser = discriminator(classes=3), unet(classes=3)
    calls: list[Callable[[Tensor | None], Tensor]] = [
        lambda y: made(x, index, z, y),
        lambda y: discriminate(x, index, x, y).logits,
        lambda y: denoiser(x, index, y),
    ]
    for net in (made, discriminate, denoiser):
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.3)
    for call in calls:
        output = [call(y) for y in (labels, labels.roll(1), None)]
        assert not torch.equal(output[0], output[1])
        assert not torch.equal(output[0], output[2])
    with pytest.raises(ValueError, match="labels"):
        generator()(x, index, z, labels)


@pytest.mark.parametrize(("size", "pixels"), [("small", 8), ("large", 64)])
def test_discriminators_can_be_trained_on_their_own_gradient(size, pixels: int):
    torch.manual_seed(0)
    net = discriminator(size=size)
    x = torch.randn(4, 1, pixels, pixels, requires_grad=True)
    squared_gradient(net(x, torch.arange(4), torch.randn_like(x)).logits, x).backward()
    learned = net.start_conv.weight.grad
    assert learned is not None
    assert learned.any()


def test_stylegan2_discriminators_reach_four_pixels_from_any_power_of_two():
    for size in (8, 16, 64):
        net = StyleGAN2Discriminator(size, 3, channel_base=64, channel_max=16)
        assert net(torch.randn(4, 3, size, size)).shape == (4, 1)
    for size in (4, 12):
        with pytest.raises(ValueError, match=f"{size} pixels"):
            StyleGAN2Discriminator(size, 3)


def test_a_fresh_stylegan2_discriminator_keeps_variances():
    torch.manual_seed(0)
    net = StyleGAN2Discriminator(16, 3, channel_base=1024)
    h = torch.randn(16, 3, 16, 16)
    first = net.get_submodule("b16").get_submodule("fromrgb")(h)
    assert 0.5 < first.square().mean() < 2


def test_one_time_serves_a_whole_batch_of_the_denoiser():
    torch.manual_seed(0)
    net, x = unet(), torch.randn(4, *SHAPE)
    assert_close(net(x, torch.tensor([500])), net(x, torch.full((4,), 500)))


def test_a_width_the_normalisation_cannot_group_is_refused():
    with pytest.raises(ValueError, match="multiples of 32"):
        unet(model_channels=24)


def test_siddm_networks_train_with_and_without_latent_labels_and_pair():
    torch.manual_seed(0)
    x, index, z = play()
    time, labels = 250.0 * index, torch.tensor([0, 1, 2, 0])
    for made, extra in (
        (SIDDMGenerator(SHAPE, trunk()), ()),
        (SIDDMGenerator(SHAPE, trunk(latent=4, classes=3)), (z, labels)),
    ):
        assert made(x, time, *extra).shape == x.shape
        train_a_step(made, lambda made=made, extra=extra: made(x, time, *extra))
    alone, pair = SIDDMDiscriminator(1, trunk()), SIDDMDiscriminator(1, trunk(channels=2))
    for verdict in (alone(x, time), pair(x, time, x.flip(0))):
        assert verdict.logits.shape == (4, 1, 8, 8)
        assert verdict.noisier is not None
        assert verdict.clean is not None
        assert verdict.noisier.shape == verdict.clean.shape == x.shape


@pytest.mark.parametrize("channels", [1, 3])
def test_siddms_heads_cost_two_pointwise_layers_and_nothing_else(channels: int):
    with_heads, plain = (
        SIDDMDiscriminator(channels, trunk(channels), heads=heads).state_dict() for heads in (True, False)
    )
    assert with_heads.keys() - plain.keys() == {f"{h}.{p}" for h in ("noisier", "clean") for p in ("weight", "bias")}
    count = sum(value.numel() for value in with_heads.values()) - sum(value.numel() for value in plain.values())
    assert count == 2 * (32 * channels + channels)


def test_siddms_blocks_convolve_at_the_smaller_size():
    """Halving comes before a block, doubling after it."""
    net = trunk(channel_mult=(1, 2, 2))
    down, up = (
        [[type(layer).__name__ for layer in stage.children()] for stage in stages]
        for stages in (net.input_blocks, net.output_blocks)
    )
    assert [stage.index("Sequential") for stage in down if "Sequential" in stage] == [0, 0]  # the halving's type
    assert [stage.index("Upsample") - len(stage) for stage in up if "Upsample" in stage] == [-1, -1]


BUILDERS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "generator": lambda: (generator(), play()),
    "discriminator": lambda: (discriminator(), (play()[0], torch.arange(4), play()[0])),
    "stylegan2": lambda: (StyleGAN2Discriminator(8, 1, channel_base=64), (play()[0],)),
    "unet": lambda: (unet(), play()[:2]),
    "siddm": lambda: (SIDDMDiscriminator(1, trunk()), play()[:2]),
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_follows_the_images(name: str, dtype: torch.dtype):
    torch.manual_seed(0)
    net, inputs = BUILDERS[name]()
    if dtype == torch.float64:
        net = net.double()
    output = net(*(part.to(dtype) if part.is_floating_point() else part for part in inputs))
    assert (output if isinstance(output, Tensor) else output.logits).dtype == dtype
