"""The plain GAN."""

from torch.testing import assert_close

from methods.core.rng import SeededRng
from methods.gan import GAN, Sampling
from tests.methods.toy import STANDING, trained


def test_the_gan_trains_through_the_one_loop_and_samples_in_one_call() -> None:
    method = GAN(width=16)
    state, metrics = trained(method)
    assert metrics[0].keys() == {"discriminator_loss", "generator_loss"} | STANDING
    out = method.sample(state.nets, Sampling(), None, SeededRng(range(5)))
    assert out.shape == (5, 2)
    assert_close(out[:2], method.sample(state.nets, Sampling(), None, SeededRng(range(2))))
