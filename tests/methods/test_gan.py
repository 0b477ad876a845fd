"""The plain GAN."""

import torch
from torch.testing import assert_close

from methods.core.loop import TrainState
from methods.core.rng import SeededRng
from methods.core.training.adversarial import spread
from methods.core.types import DataSpec
from methods.gan import GAN, Sampling
from tests.methods.toy import COLLAPSE_STATISTICS, trained


def test_the_gan_trains_through_the_one_loop_and_samples_in_one_call() -> None:
    method = GAN(width=16)
    state, metrics = trained(method)
    assert metrics[0].keys() == {"discriminator_loss", "generator_loss"} | COLLAPSE_STATISTICS
    out = method.sample(state.nets, Sampling(), None, SeededRng(range(5)))
    assert out.shape == (5, 2)
    assert_close(out[:2], method.sample(state.nets, Sampling(), None, SeededRng(range(2))))


def test_fresh_images_of_the_residual_network_differ_by_their_latent_alone() -> None:
    method = GAN(net="mlp", width=16, depth=1, latent=4)
    generator = TrainState.fresh(method, DataSpec((1, 4, 4), 0, 1.0), seed=0).nets["generator"]
    made = generator(torch.rand(64, 4, generator=torch.Generator().manual_seed(0)))
    assert made.shape == (64, 1, 4, 4)
    assert spread(made) > 0.1
