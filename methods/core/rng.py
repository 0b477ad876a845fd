"""Randomness without state: every draw follows from a seed and a position, so any part can be recomputed alone."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

BLOCK = 16  # rows of a batch that share a generator; every random number of a training depends on it
Fill = Callable[[Tensor, torch.Generator], Tensor]  # in place
SCHEME = 2  # of drawing, recorded with every training; 1: one generator for the whole batch, on the CPU
TILE = 64  # images are always computed in batches of this size: kernels differ in the last bit between batch shapes


def fold(*parts: int | str) -> int:
    """A 63-bit seed from any integers and strings, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class StepRng:
    """The randomness of one player in one training step: a generator for each block of rows of the global batch.

    A row's numbers follow from (seed, step, player, block) and the kind of device, whatever other rows are drawn beside
    it. Draws of a block follow one another; their first dimension is that of `rows`.

    rows: global numbers of the rows to draw, whole blocks. None: any number of rows from one generator, for draws that
    belong to no step's batch.
    """

    def __init__(
        self, seed: int, step: int, player: str, rows: range | None = None, device: torch.device | str = "cpu"
    ) -> None:
        if rows is not None and (rows.start % BLOCK or len(rows) % BLOCK or rows.step != 1):
            raise ValueError(f"{rows} came, whole blocks of {BLOCK} rows were wanted")
        self.rows, self.device = rows, torch.device(device)
        if rows is None:
            seeds = [fold(seed, step, player)]
        else:
            seeds = [fold(seed, step, player, block) for block in range(rows.start // BLOCK, rows.stop // BLOCK)]
        self.generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    def row_numbers(self, count: int) -> Tensor:
        """[count] int64 in the global batch, for methods whose draws depend on it."""
        first = 0 if self.rows is None else self.rows.start
        return torch.arange(first, first + count, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return self._draw(shape, lambda block, generator: block.normal_(generator=generator))

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1)."""
        return self._draw(shape, lambda block, generator: block.uniform_(generator=generator))

    def integers(self, high: int, *shape: int) -> Tensor:
        """In 0, ..., high - 1."""
        return self._draw(shape, lambda block, generator: block.random_(high, generator=generator), torch.int64)

    def _draw(self, shape: tuple[int, ...], fill: Fill, dtype: torch.dtype | None = None) -> Tensor:
        if self.rows is not None and shape[0] != len(self.rows):
            raise ValueError(f"{shape[0]} rows are drawn, but this worker has {len(self.rows)}: {self.rows}")
        values = torch.empty(shape, dtype=dtype, device=self.device)
        count = len(self.generators)
        for block, generator in zip(values.view(count, values.numel() // count).unbind(), self.generators):
            fill(block, generator)
        return values


def rows_of_worker(batch: int, rank: int, world: int) -> range:
    """The rows of a global batch that one of `world` workers computes; ValueError unless they are whole blocks."""
    unit = BLOCK * world
    if batch % unit:
        fitting = [str(count) for count in (batch // unit * unit, batch // unit * unit + unit) if count > 0]
        wanted = f"a multiple of {unit} was wanted (blocks of {BLOCK} rows, workers: {world})"
        raise ValueError(f"batch: {batch} came, {wanted}: {' or '.join(fitting)}")
    share = batch // world
    return range(rank * share, (rank + 1) * share)


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
    label_of: Callable[[int], int | Sequence[int]] | None,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Samples for `seeds`, a tile at a time: the same image for any range, batch or worker that contains its seed.

    A tile always covers seeds 64k, ..., 64k + 63; rows outside `seeds` are computed and dropped.
    label_of gives the class of a seed, or the tokens of its caption; None for unlabelled data.
    """
    for start in range(seeds.start - seeds.start % TILE, seeds.stop, TILE):
        tile = range(start, start + TILE)
        labels = None if label_of is None else torch.tensor([label_of(seed) for seed in tile], device=device)
        images = sample(labels, SeededRng(tile, device))
        yield images[max(seeds.start - start, 0) : max(0, min(TILE, seeds.stop - start))]
