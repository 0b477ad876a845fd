"""One image per seed; ranges of seeds run as parallel tasks; network calls are counted."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from methods.core.rng import TILE
from methods.core.types import Diffusion
from pipeline.context import RunContext, State
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.shards import Pictures, decode, encode, shard_files, write_parts
from pipeline.errors import TrilemmaError
from pipeline.sampling.counting import as_stored
from pipeline.sampling.recording import denoising_path, write_log_ratios
from pipeline.sampling.sampler import SamplerConfig, SamplerSpec, guided_sampler, images_per_task, sampler_spec


@dataclass(frozen=True)
class SamplingTask:
    """A range of seeds to sample, in any process."""

    spec: SamplerSpec
    state: State
    seeds: range

    @property
    def file(self) -> str:
        return f"{self.seeds.start}-{self.seeds.stop}.parquet"


class SampleCounts(NamedTuple):
    """The cost of a task."""

    counts: dict[str, float]  # network evaluations per image
    seconds: float  # of sampling alone, in the process that sampled


class Timing(NamedTuple):
    """Seconds per image of sampling alone, in one process: mean and standard deviation over repetitions."""

    seconds_per_image: float
    seconds_per_image_sd: float
    timings: int


def sample_sets(
    inputs: Mapping[str, Artifact], config: SamplerConfig, sets: Mapping[str, range], out: Draft, context: RunContext
) -> None:
    """Write each set's samples as shards of that name; network evaluations per image become facts.

    sets: seeds by set. inputs: the run, and its guides by name; ConfigError if they do not fit together.
    """
    sampler = guided_sampler(spec := sampler_spec(inputs, config))  # here, so that errors precede all sampling
    images = sum(map(len, sets.values()))
    size = images_per_task(images, context.launch.workers)
    tasks = {
        name: [SamplingTask(spec, context.state, seeds[i : i + size]) for i in range(0, len(seeds), size)]
        for name, seeds in sets.items()
    }
    counts = _sample([task for of_set in tasks.values() for task in of_set], context)
    for name, of_set in tasks.items():
        write_parts(out.path, name, (decode(context.state.load(task.file) or b"") for task in of_set))
        context.watch.samples(name, decode(shard_files(out.path, name)[0]).images, 0)
    if isinstance(sampler.method, Diffusion):
        first_seed = next(iter(sets.values())).start
        path = as_stored(denoising_path(sampler, first_seed), sampler.stored)
        np.save(out.path / "path.npy", path)
        context.watch.path(path)
        write_log_ratios(sampler, first_seed, out.path)
    facts = inputs["run"].manifest.facts
    out.facts.update(counts, shape=list(sampler.stored.shape), classes=facts["classes"], images=images)
    if latents := sampler.data.latents:
        out.facts.update({"vae_sha256": latents.encoder} if sampler.decode else {"latents": latents._asdict()})
    out.seeds.update({name: [seeds.start, seeds.stop] for name, seeds in sets.items()})


def _sample(tasks: list[SamplingTask], context: RunContext) -> dict[str, float]:
    """Run all tasks; return the mean counts per image. Seconds depend on the machine: only the watch gets them."""
    total, done, costs, sums = sum(len(task.seeds) for task in tasks), 0, list[SampleCounts](), Counter[str]()
    for task, cost in zip(tasks, context.launch.map(sample_task, tasks)):
        done += len(task.seeds)
        costs.append(cost)
        context.watch.progress(done, total)
        sums.update({name: count * len(task.seeds) for name, count in cost.counts.items()})
    for name, value in timing(tasks, costs, context.launch.workers)._asdict().items():
        context.watch.note_cost(name, value)
    return {name: count / total for name, count in sums.items()}


def timing(tasks: list[SamplingTask], costs: list[SampleCounts], workers: int) -> Timing:
    """Over the tasks of full size. The first of each process warms it up and is left out, if others remain."""
    most = max(len(task.seeds) for task in tasks)
    full = [cost.seconds / most for task, cost in zip(tasks, costs) if len(task.seeds) == most]
    seconds = np.array(full[max(workers, 1) :] or full)
    return Timing(seconds.mean(), seconds.std(ddof=1) if len(seconds) > 1 else 0.0, len(seconds))


def sample_task(task: SamplingTask) -> SampleCounts:
    """Save the task's samples and their cost in its state, unless both are there already."""
    if (saved := task.state.load(f"{task.file}.json")) is not None:
        return SampleCounts(*json.loads(saved))
    sampler = guided_sampler(task.spec)
    started = time.perf_counter()
    with sampler.counting() as rows:
        images = torch.cat([tile.cpu() for tile in sampler.sample(task.seeds)])  # .cpu() waits for the device
    seconds = time.perf_counter() - started
    tiles = -(-task.seeds.stop // TILE) - task.seeds.start // TILE
    bad = ~images.isfinite().flatten(1).all(1)
    if bad.any():
        raise TrilemmaError(f"sampling gave NaN or infinity, first at seed {task.seeds[int(bad.int().argmax())]}")
    classes, seeds = sampler.data.classes, np.array(task.seeds, np.int64)
    labels, stated = seeds % classes if classes else np.full_like(seeds, -1), {}
    if sampler.captions is not None:
        captions = sampler.captions.take(task.seeds)
        labels, stated = captions.labels, {"attributes": captions.attributes, "tokens": captions.tokens}
    task.state.save(task.file, encode(Pictures(as_stored(images, sampler.stored), labels, seeds, **stated)))
    cost = SampleCounts({name: value / (tiles * TILE) for name, value in rows.items()}, seconds)
    task.state.save(f"{task.file}.json", json.dumps(cost).encode())
    return cost
