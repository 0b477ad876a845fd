"""An image in 4 calls of a U-Net against 35 calls of the same one, at 32x32: CPU seconds, one thread.

4: SIDDM's sampler. 35: EDM's, 18 Heun steps. The calls are counted.
"""

from collections.abc import Callable
from statistics import median

import torch
from timing import timed
from torch import Tensor, nn

from methods.core.process.denoise import EDMScheme, Preconditioned
from methods.core.rng import SeededRng
from methods.core.types import DataSpec
from methods.edm import EDM
from methods.siddm import SIDDM

DATA = DataSpec((3, 32, 32), 0, 0.5)
FEW = SIDDM(net="unet", latent=0, width=32, depth=1, channel_mult=(1, 2, 2), attention=(8,), head_width=32)
MANY = EDM()
IMAGES, REPEATS = 16, 7


class AsDenoiser(nn.Module):
    """The generator's U-Net, called as EDM calls its body."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor, noise_labels: Tensor, *unused: None) -> Tensor:
        return self.generator(x, noise_labels)


def main() -> None:
    torch.set_num_threads(1)
    generator = FEW.build(DATA)["generator"].eval().requires_grad_(False)
    few = {"generator": generator}
    many = {"denoiser": Preconditioned(AsDenoiser(generator), DATA.shape, EDMScheme(DATA.std))}
    calls: list[int] = []
    generator.register_forward_hook(lambda net, given, made: calls.append(len(given[0])))
    ways: dict[str, Callable[[], Tensor]] = {
        "4 calls": lambda: FEW.sample(few, FEW.Sampling(), None, SeededRng(range(IMAGES))),
        "35 calls": lambda: MANY.sample(many, MANY.Sampling(steps=18), None, SeededRng(range(IMAGES))),
    }
    for way, sample in ways.items():
        calls.clear()
        sample()
        assert f"{len(calls)} calls" == way
    turns = [{way: timed(sample) for way, sample in ways.items()} for _ in range(REPEATS)]
    ratios = sorted(turn["35 calls"] / turn["4 calls"] for turn in turns)
    for way in ways:
        print(f"an image in {way}: {1000 / IMAGES * median(turn[way] for turn in turns):.0f} ms")
    print(f"ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} over rounds)")


if __name__ == "__main__":
    main()
