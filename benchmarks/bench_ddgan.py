"""One DDGAN iteration through the loop against the published way, same networks and R1: CPU seconds, one thread.

Published: resampling writes zeros between pixels and filters all of them, or filters all and drops three of four; the
discriminator's loss goes back through the generator too, whose gradients are then thrown away.
"""

from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from unittest.mock import patch

import torch
import torch.nn.functional as F
from timing import timed
from torch import Tensor

from methods.core.loop import TrainState, like, train_steps
from methods.core.rng import StepRng
from methods.core.training.adversarial import loss_on_fake, loss_on_real, squared_gradient
from methods.core.types import Batch, DataSpec, Draws, Progress
from methods.ddgan import DDGAN
from methods.nets import fir
from methods.nets.resample import Resampling

METHOD = DDGAN(
    net="ncsnpp",
    width=32,
    depth=1,
    channel_mult=(1, 2, 2),
    attention=(8,),
    latent=16,
    style_width=64,
    discriminator_width=16,
)
DATA = DataSpec((3, 16, 16), 0, 0.5)
BATCH, ITERATIONS, REPEATS = 16, 4, 7


def main() -> None:
    torch.set_num_threads(1)
    batch = Batch(torch.randn(BATCH, *DATA.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1))
    ours, theirs = (TrainState.fresh(METHOD, DATA, seed=0) for _ in range(2))
    assert_same_iterations(batch)
    ways: dict[str, Callable[[], None]] = {
        "ours": lambda: train(ours, batch),
        "published backward": lambda: train_as_published(theirs, batch),
        "published filters": lambda: with_published_filters(lambda: train(ours, batch)),
        "published": lambda: with_published_filters(lambda: train_as_published(theirs, batch)),
    }
    turns = [{way: timed(work) for way, work in ways.items()} for _ in range(REPEATS)]
    ms = {way: 1000 / ITERATIONS * median(turn[way] for turn in turns) for way in ways}
    for way in ways:
        print(f"DDGAN iteration, {way}: {ms[way]:.0f} ms, ratio {ms[way] / ms['ours']:.2f}")


def assert_same_iterations(batch: Batch) -> None:
    """Both ways move the networks alike; in double precision, for Adam makes much of rounding."""
    ours, theirs = (TrainState.fresh(METHOD, DATA, seed=0, dtype=torch.float64) for _ in range(2))
    train(ours, batch)
    with_published_filters(lambda: train_as_published(theirs, batch.each(Tensor.double)))
    for name, net in ours.nets.items():
        for key, value in net.state_dict().items():
            torch.testing.assert_close(value, theirs.nets[name].state_dict()[key], rtol=1e-6, atol=1e-7)


def train(state: TrainState, batch: Batch) -> None:
    """As many iterations again, the first of them with R1."""
    state.step = 0
    for _ in train_steps(METHOD, state, lambda step: batch, seed=0, batch=BATCH, steps=ITERATIONS):
        pass


def train_as_published(state: TrainState, batch: Batch) -> None:
    generate, discriminate = state.nets["generator"], state.nets["discriminator"]
    for step in range(ITERATIONS):
        generate.requires_grad_(True)
        discriminate.requires_grad_(True)
        draws = draws_of("discriminator", batch, step)
        index = draws["index"]
        x_s, x_t = METHOD.pair(batch.images, index, draws["noise_s"], draws["noise_t"])
        x_s.requires_grad_()
        optimiser = optimiser_of(state, "discriminator", step)
        on_real = discriminate(x_s, index, x_t).logits
        loss_on_real(on_real).backward(retain_graph=True)
        if step % METHOD.r1_every == 0:
            (METHOD.r1_gamma / 2 * squared_gradient(on_real, x_s)).backward()
        loss_on_fake(discriminate(step_back(state, x_t, draws), index, x_t).logits).backward()
        optimiser.step()

        discriminate.requires_grad_(False)
        draws = draws_of("generator", batch, step)
        _, x_t = METHOD.pair(batch.images, draws["index"], draws["noise_s"], draws["noise_t"])
        optimiser = optimiser_of(state, "generator", step)
        loss_on_real(discriminate(step_back(state, x_t, draws), draws["index"], x_t).logits).backward()
        optimiser.step()
        with torch.no_grad():
            for name, parameter in generate.named_parameters():
                state.averages["generator"][name].lerp_(parameter, 1 - METHOD.ema)


def draws_of(player: str, batch: Batch, step: int) -> Draws:
    draws = METHOD.draw(player, batch, StepRng(0, step, player, range(BATCH)))
    return {name: like(value, batch.images) for name, value in draws.items()}


def optimiser_of(state: TrainState, player: str, step: int) -> torch.optim.Optimizer:
    """Ready for gradients."""
    rates = {player.name: player.optimiser.lr for player in METHOD.players()}
    optimiser = state.optimisers[player]
    optimiser.zero_grad()
    for group in optimiser.param_groups:
        group["lr"] = rates[player](Progress(step, BATCH, ITERATIONS))
    return optimiser


def step_back(state: TrainState, x_t: Tensor, draws: Draws) -> Tensor:
    x0 = state.nets["generator"](x_t, draws["index"], draws["z"])
    return METHOD.posterior_at(draws["index"]).sample(x0, x_t, draws["noise_posterior"])


def with_published_filters(work: Callable[[], None]) -> None:
    with ExitStack() as stack:
        stack.enter_context(patch.object(Resampling, "apply", resample_every_pixel))
        stack.enter_context(patch.object(fir, "conv_down", conv_down_after_filtering))
        work()


def resample_every_pixel(self: Resampling, x: Tensor, kernel: Tensor) -> Tensor:
    """`Resampling.apply` for four taps."""
    height, width = x.shape[2:]
    if self.direction == "down":
        return filter_each(x, kernel, (1, 1))[:, :, ::2, ::2]
    spread = F.pad(x.reshape(*x.shape[:2], height, 1, width, 1), (0, 1, 0, 0, 0, 1))
    return filter_each(spread.reshape(*x.shape[:2], 2 * height, 2 * width), 4 * kernel, (2, 1))


def conv_down_after_filtering(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(filter_each(x, kernel, (2, 2)), weight, stride=2)


def filter_each(x: Tensor, kernel: Tensor, padding: tuple[int, int]) -> Tensor:
    """Every channel as an image of its own."""
    images = F.pad(x.reshape(-1, 1, *x.shape[2:]), padding * 2)
    filtered = F.conv2d(images, kernel)
    return filtered.reshape(*x.shape[:2], *filtered.shape[2:])


if __name__ == "__main__":
    main()
