"""Multilayer perceptrons and small encoders, for points and digits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from methods.nets.edm.song_unet import SongUNet
from methods.nets.small.encoder import ConvEncoder, MlpEncoder
from methods.nets.small.mlp import ResidualMlp
from tests.methods.test_nets import digits, train_a_step


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)], ids=["points", "digits"])
def test_the_mlp_trains_on_points_and_digits(shape):
    torch.manual_seed(0)
    net = ResidualMlp(shape, label_dim=3, width=32, blocks=2)
    x, noise = torch.randn(4, *shape), torch.linspace(-1, 1, 4)
    assert not net(x, noise).any()
    assert net(x, noise).shape == x.shape
    train_a_step(net, lambda: net(x, noise, torch.tensor([0, 1, 2, 0])))


def test_the_mlp_may_have_twice_as_many_output_channels():
    assert ResidualMlp((1, 8, 8), out_shape=(2, 8, 8), width=16)(*digits()).shape == (4, 2, 8, 8)


ENCODERS: dict[str, Callable[[int, int | None], nn.Module]] = {  # (label_dim, outputs)
    "mlp": lambda labels, outputs: MlpEncoder((1, 8, 8), label_dim=labels, outputs=outputs, width=32),
    "conv": lambda labels, outputs: ConvEncoder((1, 8, 8), label_dim=labels, outputs=outputs, model_channels=16),
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_give_one_logit_per_image_or_one_per_class(encoder: str):
    torch.manual_seed(0)
    x, noise = digits()
    discriminator, classifier = ENCODERS[encoder](3, None), ENCODERS[encoder](0, 10)
    assert discriminator(x, noise, torch.tensor([0, 1, 2, 0])).shape == (4,)
    assert classifier(x, noise).shape == (4, 10)
    train_a_step(discriminator, lambda: discriminator(x, noise))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_can_be_differentiated_twice(encoder: str):
    net = ENCODERS[encoder](0, None)
    x, noise = digits()
    slope = torch.autograd.grad(net(x.requires_grad_(), noise).sum(), x, create_graph=True)[0]
    slope.square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("side", [8, 12, 28, 32])
def test_the_convolutional_encoder_takes_images_from_8_pixels_up(side: int):
    net = ConvEncoder((3, side, side), model_channels=8, num_blocks=2)
    assert net(torch.randn(2, 3, side, side), torch.zeros(2)).shape == (2,)


def test_the_convolutional_encoder_refuses_images_too_small_to_halve():
    with pytest.raises(ValueError, match="MlpEncoder"):
        ConvEncoder((1, 4, 4))


UNET: dict[str, Any] = {"model_channels": 16, "channel_mult": (1,), "num_blocks": 1, "attn_resolutions": ()}
PAIRED: dict[str, Callable[[bool], nn.Module]] = {
    "mlp": lambda pairs: ResidualMlp((1, 8, 8), width=16, blocks=1, pairs=pairs),
    "song-unet": lambda pairs: SongUNet(8, 1, 1, pairs=pairs, **UNET),
}


@pytest.mark.parametrize("make", PAIRED.values(), ids=PAIRED)
def test_a_network_of_pairs_sees_both_times(make: Callable[[bool], nn.Module]) -> None:
    torch.manual_seed(0)
    x, times = torch.randn(4, 1, 8, 8), torch.rand(4, 2)
    net = make(True)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    out = net(x, times)
    for column in (0, 1):
        other = times.clone()
        other[:, column] += 0.3
        assert (net(x, other) - out).abs().amax((1, 2, 3)).min() > 1e-4
    with pytest.raises(ValueError, match=r"noise_labels: shape \[4\] came, \[B, 2\], a network of pairs, was wanted"):
        net(x, times[:, 0])
    with pytest.raises(ValueError, match=r"noise_labels: shape \[4, 2\] came, \[B\] was wanted"):
        make(False)(x, times)
