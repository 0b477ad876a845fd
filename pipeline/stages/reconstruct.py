"""reconstruct: what an autoencoder loses. Latents of real images are decoded and measured as the images of a run are.

A bound for every run on these latents: the values of a model whose latents are perfect.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image

from methods.core.devices import current_device
from methods.core.numbers import Count
from methods.core.pixels import to_uint8
from methods.core.rng import TILE
from pipeline.config.build import Block
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.image_grid import grid
from pipeline.data.row_index import open_rows
from pipeline.data.shards import Pictures
from pipeline.metrics.card import METRICS_FILE
from pipeline.metrics.evaluate import evaluator_of
from pipeline.metrics.evaluator import read_real_vs_real, result_rows
from pipeline.training.latents import Decoder, check_encoder
from pipeline.training.networks import data_spec

SETS = 5  # of images
SHOWN = 32


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    images: Count  # per set, as in the evaluation of a run


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    """Write metrics.json as `evaluate` does; mean errors of held-out images become facts."""
    check_encoder(inputs)
    latents, images = inputs["latents"], inputs["prepare"]
    of = data_spec(latents.manifest.facts).latents
    assert of is not None
    decoder = Decoder.load(inputs["autoencoder"].path, asdict(config), of, current_device())
    rows = {split: open_rows(latents.path, split) for split in ("train", "held_out")}
    evaluator = evaluator_of(images.path, inputs["features"].path)
    count = min(config.images, *map(len, rows.values()))
    rng, measured = np.random.default_rng(0), []
    for number in range(SETS):  # of each split the images that `real_vs_real` uses it for
        chosen = {split: rng.permutation(len(of_split))[:count] for split, of_split in rows.items()}
        train, held_out = (_decoded(decoder, rows[split].take(index).read()) for split, index in chosen.items())
        measured.append(evaluator.against_held_out(train) | evaluator.against_train(held_out))
        if number == 0:
            real = open_rows(images.path, "held_out").take(chosen["held_out"]).read().images
            out.facts.update(_errors(held_out.images, real))
            _show(held_out.images, real, out, context)
        context.watch.progress(number + 1, SETS)
    metrics = result_rows(measured, read_real_vs_real(inputs["features"].path), of.encoder)
    content = {"sets": [f"reconstructions-{number}" for number in range(SETS)], "counts": {}, "metrics": metrics}
    (out.path / METRICS_FILE).write_text(json.dumps(content, indent=1) + "\n")
    out.facts.update(images=count)
    context.watch.results(
        {f"{row['metric']} {row['card']['extractor']}": float(np.mean(row["values"])) for row in metrics}
    )


def _decoded(decoder: Decoder, latents: Pictures) -> Pictures:
    """Tile by tile; the last one is filled up with the first latents."""
    tiles = []
    for start in range(0, len(latents), TILE):
        index = np.arange(start, start + TILE) % len(latents)
        images = decoder(torch.from_numpy(latents.images[index]).to(current_device()))
        tiles.append(to_uint8(images)[: len(latents) - start].cpu().numpy())
    return Pictures(np.concatenate(tiles), *latents[1:])


def _show(decoded: np.ndarray, real: np.ndarray, out: Draft, context: RunContext) -> None:
    """Pairs of a real image and its reconstruction: to the watch, and as preview.png."""
    pairs = np.stack([real[:SHOWN], decoded[:SHOWN]], axis=1).reshape(-1, *real.shape[1:])
    if pairs.shape[1] in (1, 3):
        Image.fromarray(grid(pairs, 8)).save(out.path / "preview.png")
        context.watch.samples("reconstructions", pairs, 0)


def _errors(decoded: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Mean absolute and squared error of values in [-1, 1], and the peak signal-to-noise ratio in dB."""
    difference = (decoded.astype(np.float64) - real) / 127.5
    mse = float(np.square(difference).mean())
    return {"mae": float(np.abs(difference).mean()), "mse": mse, "psnr": 10 * float(np.log10(4 / max(mse, 1e-12)))}
