"""Randomness without state: every draw follows from a seed and a position, so any part can be recomputed alone."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

TILE = 64  # images are always computed in batches of this size: kernels differ in the last bit between batch shapes


def fold(*parts: int | str) -> int:
    """A 63-bit seed from any integers and strings, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class StepRng:
    """The randomness of one player in one training step."""

    def __init__(self, seed: int, step: int, player: str) -> None:
        self.generator = torch.Generator().manual_seed(fold(seed, step, player))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1)."""
        return torch.rand(shape, generator=self.generator)

    def integers(self, high: int, *shape: int) -> Tensor:
        """In 0, ..., high - 1."""
        return torch.randint(high, shape, generator=self.generator)


class ImageRng(Protocol):
    """Noise for sampling: row i of every draw comes from image i's own stream."""

    def normal(self, *shape: int) -> Tensor:
        """[B, *shape] standard normal."""
        ...

    def uniform(self, *shape: int) -> Tensor:
        """[B, *shape] in [0, 1)."""
        ...


class SeededRng:
    """One generator per image, so that an image does not depend on its neighbours or on the device."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.device = device

    def normal(self, *shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators]).to(self.device)


class InjectedRng:
    """Recorded draws, in order (golden data)."""

    def __init__(self, *draws: Tensor) -> None:
        self.draws = list(draws)

    def normal(self, *shape: int) -> Tensor:
        draw = self.draws.pop(0)
        if tuple(draw.shape[1:]) != shape:
            came = tuple(draw.shape[1:])
            raise ValueError(f"recorded draw of shape {came}, but the sampler draws {shape}: record them again")
        return draw

    uniform = normal


def sample_tiles(
    sample: Callable[[Tensor | None, ImageRng], Tensor],
    seeds: range,
    label_of: Callable[[int], int] | None,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Samples for `seeds`, a tile at a time: the same image for any range, batch or worker that contains its seed.

    A tile always covers seeds 64k, ..., 64k + 63; rows outside `seeds` are computed and dropped.
    label_of gives the class of a seed; None for unlabelled data.
    """
    for start in range(seeds.start - seeds.start % TILE, seeds.stop, TILE):
        tile = range(start, start + TILE)
        labels = None if label_of is None else torch.tensor([label_of(seed) for seed in tile], device=device)
        images = sample(labels, SeededRng(tile, device))
        yield images[max(seeds.start - start, 0) : max(0, min(TILE, seeds.stop - start))]
