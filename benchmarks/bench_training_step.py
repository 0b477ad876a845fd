"""A training step of a 32x32 U-Net of 64 channels through the loop, in float32 and bf16, against a plain float32 loop.

CPU seconds, one thread; bf16 gains where the CPU multiplies matrices in it (AMX). Peak memory is of a process each.
"""

import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median

import torch
from timing import timed

from methods.core.loop import TrainState, train_steps
from methods.core.rng import StepRng
from methods.core.types import Batch, DataSpec
from methods.edm import EDM

METHOD = EDM(width=64, depth=2, channel_mult=(1, 2, 2), augment=0.0, dropout=0.0, lr_rampup_images=0)
DATA = DataSpec((3, 32, 32), 0, 0.5)
BATCH, REPEATS = 16, 7
FOREVER = 10**9
BATCHES = Batch(torch.randn(BATCH, *DATA.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1))


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        step = WAYS[sys.argv[1]]()
        for _ in range(3):
            step()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(int(status["VmHWM"].split()[0]) // 1024)
        return
    amx = "amx_bf16" in Path("/proc/cpuinfo").read_text()
    print(f"AMX: {'yes' if amx else 'no'}")
    steps = {way: make() for way, make in WAYS.items()}
    for step in steps.values():
        step()
    turns = [{way: timed(step) for way, step in steps.items()} for _ in range(REPEATS)]
    for way in WAYS:
        ratios = [turn["plain"] / turn[way] for turn in turns]
        ms = 1000 * median(turn[way] for turn in turns)
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        peak = subprocess.run([sys.executable, __file__, way], capture_output=True, text=True, check=True).stdout
        print(f"{way}: {ms:.0f} ms of a step, {spread} times as fast as plain; peak {peak.strip()} MiB")


def through_the_loop(autocast: torch.dtype | None) -> Callable[[], object]:
    state = TrainState.fresh(METHOD, DATA, seed=0)
    steps = train_steps(METHOD, state, lambda step: BATCHES, seed=0, batch=BATCH, steps=FOREVER, autocast=autocast)
    return lambda: next(steps)


def plain() -> Callable[[], object]:
    """As EDM's own loop: Adam, gradients made finite one by one, the average one by one."""
    torch.manual_seed(0)
    nets = METHOD.build(DATA)
    net = nets["denoiser"]
    average = METHOD.build(DATA)["denoiser"].requires_grad_(False)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    number = count()

    def step() -> None:
        draws = METHOD.draw("denoiser", BATCHES, StepRng(0, next(number), "denoiser", range(BATCH)))
        draws = {name: value.float() for name, value in draws.items()}
        adam.zero_grad(set_to_none=True)
        METHOD.loss("denoiser", nets, BATCHES, draws, 0)[0].backward()
        for parameter in net.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        adam.step()
        with torch.no_grad():
            for kept, parameter in zip(average.parameters(), net.parameters()):
                kept.copy_(parameter.lerp(kept, 0.999))

    return step


WAYS: dict[str, Callable[[], Callable[[], object]]] = {
    "plain": plain,
    "float32": lambda: through_the_loop(None),
    "bf16": lambda: through_the_loop(torch.bfloat16),
}


if __name__ == "__main__":
    main()
