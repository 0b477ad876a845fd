"""translate: restore corrupted held-out images by SDEdit, with and without the guides of a guided entry.

Realism and faithfulness are measured at each starting noise level. The guide is trained against the run's own samples;
the paper's guide for image-to-image is trained against translated images.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from methods.core.numbers import Count, Positive
from methods.core.pixels import from_uint8, to_uint8
from methods.core.rng import TILE, SeededRng
from methods.core.types import Source, unwrapped
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.row_index import open_rows
from pipeline.errors import UserError
from pipeline.metrics.features.extract import own_network, reference_file
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.values.frechet import frechet_distance
from pipeline.sampling.sampler import GuidedSampler, SamplerConfig, guided_sampler, sampler_spec

ROWS, EXAMPLES = "translations.parquet", "examples.npy"
EXAMPLE_IMAGES = 8
FIRST_SEED, SEEDS_BETWEEN_SETS = 2_000_000_000, 1_000_000  # of the noise; no other stage uses these seeds
BLOCK = 2  # the corruption replaces blocks of so many pixels per side by their mean
GUIDANCE = (True, False)


@dataclass(frozen=True)
class Config:
    sampler: SamplerConfig
    starts: list[Positive]
    images: Count
    sets: Count


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    """Write the table ROWS and the array EXAMPLES: originals, corrupted ones, then one row per start and guidance."""
    held_out = open_rows(inputs["prepare"].path, "held_out")
    if not 1 < config.images <= len(held_out):
        raise UserError(f"images: {config.images} came, but 2 to {len(held_out)} can be: so many are held out")
    chosen = held_out.take(slice(config.images)).read()
    source = from_uint8(torch.from_numpy(blocky(chosen.images)))
    network = own_network(inputs["features"].path)
    if network is None:
        raise UserError("the dataset has no feature network of its own, for its images have no labels: label them")
    real = Reference.load(inputs["features"].path / reference_file(network.name, "train"))
    sampler = guided_sampler(
        sampler_spec({role: inputs[role] for role in inputs if role not in ("prepare", "features")}, config.sampler)
    )

    def measured(images: Tensor) -> dict[str, float]:
        stats = FeatureStats.of(network.outputs(to_uint8(images).numpy()).features)
        fd = frechet_distance(stats, real.stats, real.factor).value
        return {"distance": (images - source).square().mean().item(), "fd": fd}

    clean = measured(from_uint8(torch.from_numpy(chosen.images)))
    rows: list[dict[str, float | bool]] = []
    examples = [chosen.images[:EXAMPLE_IMAGES], to_uint8(source[:EXAMPLE_IMAGES]).numpy()]
    for start in config.starts:
        for is_guided in GUIDANCE:
            for number in range(config.sets):
                seed = FIRST_SEED + number * SEEDS_BETWEEN_SETS
                tiles = _translated(sampler, source, chosen.labels, start, seed, is_guided)
                images = torch.cat(list(tiles))[: len(source)]
                rows.append({"start": start, "is_guided": is_guided, "set": number} | measured(images))
                if number == 0:
                    examples.append(to_uint8(images[:EXAMPLE_IMAGES]).numpy())
        context.watch.progress(len(rows), len(config.starts) * len(GUIDANCE) * config.sets)
    pq.write_table(pa.Table.from_pylist(rows), out.path / ROWS)
    np.save(out.path / EXAMPLES, np.stack(examples))
    out.facts.update(images=config.images, source_fd=measured(source)["fd"], real_fd=clean["fd"])
    out.seeds.update(noise=[FIRST_SEED, FIRST_SEED + (config.sets - 1) * SEEDS_BETWEEN_SETS + config.images])


def blocky(images: np.ndarray) -> np.ndarray:
    """images: uint8 [n, C, H, W]; each block of BLOCK x BLOCK pixels becomes its mean."""
    coarse = torch.nn.functional.avg_pool2d(torch.from_numpy(images).double(), BLOCK)
    return coarse.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3).round().to(torch.uint8).numpy()


def _translated(
    sampler: GuidedSampler, source: Tensor, classes: np.ndarray, start: float, seed: int, is_guided: bool
) -> Iterator[Tensor]:
    """Tile by tile; the last one is filled up with the first images. Each image keeps its own class."""
    for first in range(0, len(source), TILE):
        index = torch.arange(first, first + TILE) % len(source)
        labels = torch.from_numpy(classes[index.numpy()]).to(sampler.device) if sampler.data.classes else None
        rng = SeededRng(range(seed + first, seed + first + TILE), sampler.device)
        begin = Source(source[index].to(sampler.device), start)
        wrap = sampler.guidance(labels, rng) if is_guided else unwrapped
        yield sampler.method.sample(sampler.nets, sampler.sampling, labels, rng, wrap, begin).cpu()
