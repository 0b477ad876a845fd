"""Prepared pictures against a zip of PNGs: opening them, and random batches; and what N workers spend to prepare a step
against what one spends. In CPU seconds of one process.

A batch is let go before the next one is taken, as in training: whoever keeps them measures the kernel clearing pages.
"""

import io
import statistics
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import timed

from methods.core.rng import StepRng, rows_of_worker
from methods.core.types import Trainable
from methods.edm import EDM
from methods.siddm import SIDDM
from pipeline.context import Worker
from pipeline.data.loader import Epochs, placed
from pipeline.data.row_index import open_rows
from pipeline.data.shards import Pictures, encode_arrow, rows_per_shard

PICTURES, BATCH, ROUNDS = 50_000, 128, 7
WORLDS = (2, 8, 64)
STEP_ROUNDS = 15
STEPS = (
    ("EDM", EDM(augment=0.12), 1024, (3, 32, 32)),
    ("SIDDM", SIDDM(net="unet", latent=0), 1024, (3, 32, 32)),
    ("EDM", EDM(augment=0.12), 2048, (3, 64, 64)),
)


def main() -> None:
    torch.set_num_threads(1)
    for name, method, batch, shape in STEPS:
        print(f"{name}, batch {batch} of {shape}: {shares(method, batch, shape)}")
    against_a_zip()


def shares(method: Trainable, batch: int, shape: tuple[int, ...]) -> str:
    """CPU time of N workers for the draws and the batch of one step, in all, against that of one worker: 1 is ideal."""
    images = np.random.default_rng(0).integers(0, 256, (2 * batch, *shape)).astype(np.uint8)
    epochs = Epochs(images, np.arange(2 * batch) % 10, batch, 0, flip=True)

    def prepare(world: int, step: int) -> float:
        batches = [placed(epochs, Worker(rank, world, torch.device("cpu"), None)) for rank in range(world)]

        def work() -> None:
            for rank, of_worker in enumerate(batches):
                rows = of_worker(step)
                for player in method.players():
                    method.draw(player.name, rows, StepRng(0, step, player.name, rows_of_worker(batch, rank, world)))

        return timed(work)

    turns = [{world: prepare(world, step) for world in (1, *WORLDS)} for step in range(STEP_ROUNDS)]
    ratios = {world: [turn[world] / turn[1] for turn in turns] for world in WORLDS}
    each = ", ".join(f"{w}: {statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for w, r in ratios.items())
    least = {world: min(turn[world] for turn in turns) for world in (1, *WORLDS)}  # without what disturbed it
    bounds = ", ".join(f"{world}: {least[world] / least[1]:.2f}" for world in WORLDS)
    return f"one worker {1000 * least[1]:.1f} ms; least {bounds}; median {each}"


def against_a_zip() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (PICTURES, 3, 32, 32)).astype(np.uint8)
    numbers = np.arange(PICTURES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = rows_per_shard(images.shape[1:], images.dtype)
        for number, start in enumerate(range(0, PICTURES, rows)):
            index = slice(start, start + rows)
            shard = Pictures(images[index], numbers[index] % 10, numbers[index])
            (folder / f"train-{number:05d}.arrow").write_bytes(encode_arrow(shard))
        with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
            for number, image in enumerate(images):
                buffer = io.BytesIO()
                Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG", compress_level=0)
                archive.writestr(f"{number}.png", buffer.getvalue())
        opening = [timed(lambda: open_rows(folder, "train").labels) for _ in range(ROUNDS)]
        mapped = open_rows(folder, "train")
        epoch = rng.permutation(PICTURES)[:-80].reshape(-1, BATCH)
        first = timed(lambda: take(mapped.__getitem__, epoch)) / epoch.size
        archive = zipfile.ZipFile(folder / "pictures.zip")
        ours, plain = [], []
        for _ in range(ROUNDS):
            index = rng.integers(0, PICTURES, (50, BATCH))
            ours.append(timed(lambda index=index: take(mapped.__getitem__, index)) / index.size)
            few = index[:2]
            plain.append(timed(lambda few=few: take(partial(decoded, archive), few)) / few.size)
    ratio = statistics.median(plain) / statistics.median(ours)
    print(
        f"open {1000 * statistics.median(opening):.1f} ms; random {BATCH}-batches {ratio:.0f}x a zip of PNGs "
        f"({1 / statistics.median(ours):,.0f} against {1 / statistics.median(plain):,.0f} pictures per CPU second; "
        f"{1 / first:,.0f} in the first epoch)"
    )


def take(read: Callable[[np.ndarray], np.ndarray], index: np.ndarray) -> None:
    """One batch at a time."""
    for batch in index:
        read(batch)


def decoded(archive: zipfile.ZipFile, batch: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(archive.read(f"{number}.png")))) for number in batch])


if __name__ == "__main__":
    main()
