"""prepare-latents: encode the images of a prepared dataset, and write their latents as shards like those of images.

A latent is a draw from its image's posterior that follows from the image's place in its split, then scaled. Encoded
parts are kept in the state, so that a killed preparation resumes after the last one.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from methods.core.devices import current_device
from methods.core.numbers import Positive
from methods.core.pixels import from_uint8
from methods.core.rng import TILE, SeededRng, fold
from methods.core.types import Autoencoder, Latents, Nets
from pipeline.config.build import Block, build_method
from pipeline.context import RunContext, State
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.row_index import ShardedRows, open_rows
from pipeline.data.shards import Pictures, decode, encode_arrow, rows_per_shard
from pipeline.data.split_facts import SplitFacts
from pipeline.errors import UserError
from pipeline.training.latents import encoder_of
from pipeline.training.networks import data_spec, load_networks

CLASSIFIER = "classifier"  # a split that only a network of images is trained on
COLLAPSED = 0.8  # mean posterior standard deviation of a channel above which it is mostly noise
KEPT = (
    "classes", "label_names", "attributes", "attribute_names", "attribute_values", "vocabulary", "tokens", "words",
    "duplicates",
)  # fmt: skip  # facts of the images that hold for their latents


@dataclass(frozen=True)
class Config:
    """scaling: channel: mean 0 and standard deviation 1 of each channel; single: one factor for all; or this factor."""

    method: str
    model: Block
    scaling: Literal["channel", "single"] | Positive


class Shard(NamedTuple):
    """A file of latents, and the rows of its split that it holds."""

    split: str
    name: str
    rows: range


class Part(NamedTuple):
    """Images that were encoded together, not scaled yet; noise: the mean posterior standard deviation by channel."""

    pictures: Pictures
    noise: list[float]


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    data, images = inputs["data"], inputs["data"].manifest.facts
    method: Autoencoder = build_method(config.method, config.model)
    spec = data_spec(images)
    nets = load_networks(inputs["autoencoder"].path, method, spec, current_device())
    shape = method.latent_shape(spec.shape)
    rows = {split: open_rows(data.path, split) for split in images["rows"] if split != CLASSIFIER}
    wanted = list(_shards(rows, -(-rows_per_shard(shape, np.dtype(np.float32)) // TILE) * TILE))
    moments, noise = np.zeros((2, shape[0])), np.zeros(shape[0])
    for number, shard in enumerate(wanted, 1):
        part = _load_or_encode(shard, rows[shard.split], method, nets, context.state)
        if shard.split == "train":
            values = part.pictures.images.astype(np.float64)
            moments += np.stack([values.sum((0, 2, 3)), np.square(values).sum((0, 2, 3))])
            noise += np.array(part.noise) * len(part.pictures)
        context.watch.progress(number, len(wanted))
    count = len(rows["train"])
    mean, std = _scale(moments / (count * int(np.prod(shape[1:]))), config.scaling)
    by_split = {split: SplitFacts() for split in rows}
    for shard in wanted:
        raw = decode(context.state.load(shard.name) or b"")
        scaled = ((raw.images - mean[:, None, None]) / std[:, None, None]).astype(np.float32)
        pictures = Pictures(scaled, *raw[1:])
        (out.path / shard.name).write_bytes(encode_arrow(pictures))
        by_split[shard.split].add(pictures)
    latents = Latents(encoder_of(inputs["autoencoder"]), tuple(mean.tolist()), tuple(std.tolist()))
    out.facts.update(_facts(images, shape, by_split, latents, noise / count))


def _shards(rows: Mapping[str, ShardedRows], size: int) -> Iterator[Shard]:
    for split, of_split in rows.items():
        for number, start in enumerate(range(0, len(of_split), size)):
            yield Shard(split, f"{split}-{number:05d}.arrow", range(start, min(start + size, len(of_split))))


def _load_or_encode(shard: Shard, rows: ShardedRows, method: Autoencoder, nets: Nets, state: State) -> Part:
    """rows: of the split. From the state if it was made before, else it is kept there."""
    content, about = state.load(shard.name), state.load(f"{shard.name}.json")
    if content is None or about is None:
        encoded = _encoded(shard, rows, method, nets)
        state.save(shard.name, content := encode_arrow(encoded.pictures))
        state.save(f"{shard.name}.json", about := json.dumps(encoded.noise).encode())
    return Part(decode(content), json.loads(about))


@torch.no_grad()
def _encoded(shard: Shard, rows: ShardedRows, method: Autoencoder, nets: Nets) -> Part:
    """Tile by tile; the last one is filled up with the first rows."""
    known, latents, noise = rows.take(np.array(shard.rows)).read(), list[torch.Tensor](), list[torch.Tensor]()
    for start in range(0, len(known), TILE):
        index = np.arange(start, start + TILE) % len(known)
        images = from_uint8(torch.from_numpy(known.images[index])).to(device := current_device())
        mean, std = method.encode(nets, images)
        seeds = [fold("latents", shard.split, shard.rows[i]) for i in index]
        draws = SeededRng(seeds, device).normal(*mean.shape[1:])
        kept = len(known) - start
        latents.append((mean + std * draws)[:kept].cpu())
        noise.append(std[:kept].double().mean((2, 3)).cpu())
    encoded = torch.cat(latents).float().numpy()
    if not np.isfinite(encoded).all():
        raise UserError(
            f"{shard.name}: latents are NaN or infinite: the autoencoder's weights are broken; train it again"
        )
    return Part(Pictures(encoded, *known[1:]), torch.cat(noise).mean(0).tolist())


def _scale(moments: np.ndarray, scaling: str | float) -> tuple[np.ndarray, np.ndarray]:
    """What is subtracted, and what it is divided by, per channel. moments: [2, c], means of values and squares."""
    mean, zeros = moments[0], np.zeros_like(moments[0])
    if scaling == "channel":
        return mean, np.sqrt(moments[1] - mean**2)
    if scaling == "single":
        return zeros, zeros + np.sqrt(moments[1].mean() - mean.mean() ** 2)
    return zeros, zeros + 1 / float(scaling)


def _facts(
    images: Mapping[str, Any],
    shape: tuple[int, ...],
    by_split: Mapping[str, SplitFacts],
    latents: Latents,
    noise: np.ndarray,
) -> dict[str, Any]:
    """Those that `prepare` gives of images, as far as they are known, and the latents' own."""
    empty = [
        f"latent channel {channel} carries nothing: its mean posterior standard deviation is {std:.2f} of 1"
        for channel, std in enumerate(noise)
        if std > COLLAPSED
    ]
    return {
        **{name: images[name] for name in KEPT if name in images},
        **{split: facts.count for split, facts in by_split.items()},
        "shape": list(shape),
        "std": by_split["train"].std(int(np.prod(shape))),
        "class_counts": {split: counts for split, counts in images["class_counts"].items() if split in by_split},
        "rows": {split: facts.rows for split, facts in by_split.items()},
        "bad_records": 0,
        "warnings": empty,
        "posterior_std": noise.tolist(),
        "latents": latents._asdict(),
    }
