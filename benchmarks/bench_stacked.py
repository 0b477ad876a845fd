"""SIDDM's simulation trained as a stack against a plain loop, same networks, batch and losses: CPU time, one thread.

Plain: one model as the published script steps it: the time of every point embedded anew, the discriminator's loss goes
back through the generator too, whose gradients are thrown away, and every use is a forward pass of its own. Both visit
only the times that are sampled.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from methods.core.density.mog25 import points
from methods.core.loop import TrainState, batch_indices, like
from methods.core.process.continuous import pair_of_times
from methods.core.process.posterior import diffuse
from methods.core.rng import StepRng
from methods.core.training.adversarial import loss_on_fake, loss_on_real
from methods.core.training.stacked import Model, StackState, train_stack
from methods.core.types import Batch, DataSpec
from methods.siddm import SIDDM

METHOD = SIDDM(
    net="mixture-fourier", trained_times="visited", afd="renoise", c_target=None, clean_weight=None, ema=0.0,
    generator_lr=1e-4, discriminator_lr=4e-4,
)  # fmt: skip
DATA = DataSpec((2,), 0, 3.54)
POINTS = (points(per_mode=1000) - 10) / 2
BATCH, ROUNDS = 4000, 7
ITERATIONS = 2  # of each model and round
MODELS = 2
SMALL = 256, 13  # batch and models of the root study


def main() -> None:
    torch.set_num_threads(1)
    assert_same_iterations()
    for batch, count in ((BATCH, MODELS), SMALL):
        iterations = ITERATIONS if batch == BATCH else 2 * ITERATIONS
        ways: dict[str, tuple[Iterator[object], int]] = {
            "plain": (plain_loop(batch, torch.float32), 1),
            "stacked float32": (stacked(count, batch, None), count),
            "stacked bf16": (stacked(count, batch, torch.bfloat16), count),
        }
        for loop, _ in ways.values():
            next(loop)
        rounds = [
            {way: timed(loop, iterations) / models for way, (loop, models) in ways.items()} for _ in range(ROUNDS)
        ]
        for way in ways:
            ratios = [turn["plain"] / turn[way] for turn in rounds]
            ms = 1000 / iterations * median(turn[way] for turn in rounds)
            print(
                f"batch {batch}, {count} models, {way}: {ms:.1f} ms per model and iteration, "
                f"{median(ratios):.2f} times plain ({min(ratios):.2f} to {max(ratios):.2f})"
            )


def assert_same_iterations() -> None:
    """Both ways move the networks alike, but for rounding."""
    plain = TrainState.fresh(METHOD, DATA, 0, dtype=torch.float64)
    loop = plain_loop(64, torch.float64, plain)
    models = [Model(METHOD, 0)]
    state = StackState.fresh(models, DATA, dtype=torch.float64)
    for _ in train_stack(models, state, batches(64), batch=64, steps=5):
        next(loop)
    (weights,) = state.weights(METHOD.players())
    for name, net in plain.nets.items():
        torch.testing.assert_close(dict(net.named_parameters()), weights[name], rtol=1e-7, atol=1e-8)


def batches(batch: int) -> Callable[[int, int], Batch]:
    return lambda seed, step: Batch(POINTS[batch_indices(len(POINTS), batch, seed, step)])


def stacked(count: int, batch: int, hidden: torch.dtype | None) -> Iterator[object]:
    models = [Model(replace(METHOD, steps=2 ** (1 + number % 4)), 0) for number in range(count)]
    state = StackState.fresh(models, DATA)
    return train_stack(models, state, batches(batch), batch=batch, steps=10**9, hidden=hidden)


def plain_loop(batch: int, dtype: torch.dtype, state: TrainState | None = None) -> Iterator[object]:
    state = state or TrainState.fresh(METHOD, DATA, 0, dtype=dtype)
    nets = state.nets
    rates = {"discriminator": METHOD.discriminator_lr, "generator": METHOD.generator_lr}
    for player, rate in rates.items():
        state.optimisers[player].param_groups[0]["lr"] = rate
    for step in range(10**9):
        x0 = batches(batch)(0, step).images.to(dtype)
        for player in rates:
            for net in nets.values():
                net.zero_grad()
            draws = {
                name: like(value, x0)
                for name, value in METHOD.draw(player, Batch(x0), StepRng(0, step, player, range(batch))).items()
            }
            loss_of(player, nets, x0, draws).backward()
            state.optimisers[player].step()
        yield None


def loss_of(player: str, nets: dict[str, torch.nn.Module], x0: Tensor, draws: dict[str, Tensor]) -> Tensor:
    generate, discriminate = nets["generator"], nets["discriminator"]
    times = pair_of_times(draws["s"], draws["u"])
    x_s = diffuse(x0, times.alpha_bar_s, draws["noise_s"])
    x_u = diffuse(x_s, 1 - times.beta, draws["noise_u"])
    made = generate(x_u, 1000 * times.u, draws["z"])
    fake = METHOD.posterior(times).sample(made, x_u, draws["noise_posterior"])
    if player == "discriminator":
        on_real, on_fake = (discriminate(x, 1000 * times.s).logits for x in (x_s, fake))
        return loss_on_real(on_real) + loss_on_fake(on_fake)
    renoised = diffuse(fake, 1 - times.beta, draws["noise_renoise"])
    return loss_on_real(discriminate(fake, 1000 * times.s).logits) + (renoised - x_u).square().mean()


def timed(loop: Iterator[object], iterations: int) -> float:
    start = time.process_time()
    for _ in range(iterations):
        next(loop)
    return time.process_time() - start


if __name__ == "__main__":
    main()
