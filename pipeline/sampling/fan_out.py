"""One image per seed; ranges of seeds run as parallel tasks; network calls are counted."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from methods.core.rng import TILE
from methods.core.types import Diffusion
from pipeline.context import RunContext, State
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.shards import Pictures, decode, encode, shard_files, write_parts
from pipeline.errors import TrilemmaError
from pipeline.sampling.counting import stored
from pipeline.sampling.recording import LOG_RATIO, denoising_path, write_log_ratios
from pipeline.sampling.sampler import SamplerConfig, SamplerSpec, guided_sampler, images_per_task, sampler_spec


@dataclass(frozen=True)
class SamplingTask:
    """A range of seeds, painted by whoever is free."""

    recipe: SamplerSpec
    state: State
    seeds: range

    @property
    def file(self) -> str:
        return f"{self.seeds.start}-{self.seeds.stop}.parquet"


class SampleCounts(NamedTuple):
    """What a piece took."""

    counts: dict[str, float]  # network evaluations per image
    seconds: float  # of painting alone, by whoever painted


def sample_sets(
    inputs: Mapping[str, Artifact], sampler: SamplerConfig, sets: Mapping[str, range], out: Draft, context: RunContext
) -> None:
    """Every set's pictures as shards of that name; network evaluations per image among the facts."""
    facts = inputs["run"].manifest.facts
    artist = guided_sampler(recipe := sampler_spec(inputs, sampler))  # what does not fit, fails here
    size = images_per_task(sum(map(len, sets.values())), context.launch.workers)
    pieces = {name: _pieces(recipe, context.state, seeds, size) for name, seeds in sets.items()}
    counts = _sample([piece for of_set in pieces.values() for piece in of_set], context)
    for name, of_set in pieces.items():
        write_parts(out.path, name, (decode(context.state.load(piece.file) or b"") for piece in of_set))
        context.watch.samples(name, decode(shard_files(out.path, name)[0]).images, 0)
    if isinstance(artist.method, Diffusion):
        path = stored(denoising_path(artist, next(iter(sets.values())).start), artist.data)
        np.save(out.path / "path.npy", path)
        context.watch.path(path)
        write_log_ratios(artist, next(iter(sets.values())).start, out.path / LOG_RATIO)
    out.facts.update(counts, shape=facts["shape"], classes=facts["classes"], images=sum(map(len, sets.values())))
    out.seeds.update({name: [seeds.start, seeds.stop] for name, seeds in sets.items()})


def _pieces(recipe: SamplerSpec, state: Any, seeds: range, size: int) -> list[SamplingTask]:
    starts = range(seeds.start, seeds.stop, size)
    return [SamplingTask(recipe, state, range(start, min(start + size, seeds.stop))) for start in starts]


def _sample(pieces: list[SamplingTask], context: RunContext) -> dict[str, float]:
    """All pieces into the state, and the mean counts per image. The seconds are circumstance: they go to the watch."""
    total, done, seconds, sums = sum(len(piece.seeds) for piece in pieces), 0, 0.0, Counter[str]()
    for piece, tally in zip(pieces, context.launch.map(sample_task, pieces)):
        done += len(piece.seeds)
        seconds += tally.seconds
        context.watch.progress(done, total)
        sums.update({name: count * len(piece.seeds) for name, count in tally.counts.items()})
    context.watch.note_cost("seconds_per_image", seconds / total)
    return {name: count / total for name, count in sums.items()}


def sample_task(piece: SamplingTask) -> SampleCounts:
    """Paint a piece into the state, unless it is there already."""
    tally = f"{piece.file}.json"
    saved = piece.state.load(tally)
    if saved is not None:
        return SampleCounts(*json.loads(saved))
    artist = guided_sampler(piece.recipe)
    started = time.perf_counter()
    with artist.counting() as rows:
        images = torch.cat([tile.cpu() for tile in artist.paint(piece.seeds)])  # .cpu() waits for the device
    seconds = time.perf_counter() - started
    tiles = -(-piece.seeds.stop // TILE) - piece.seeds.start // TILE
    bad = ~images.isfinite().flatten(1).all(1)
    if bad.any():
        raise TrilemmaError(f"sampling gave NaN or infinity, first at seed {piece.seeds[int(bad.int().argmax())]}")
    labels = np.array([seed % artist.data.classes if artist.data.classes else -1 for seed in piece.seeds], np.int64)
    piece.state.save(piece.file, encode(Pictures(stored(images, artist.data), labels, np.array(piece.seeds, np.int64))))
    tallied = SampleCounts({name: value / (tiles * TILE) for name, value in rows.items()}, seconds)
    piece.state.save(tally, json.dumps(tallied).encode())
    return tallied
