"""translate: corrupted held-out pictures made real again by SDEdit, with and without the guides of a guided entry.

Realism against faithfulness over the noise level that it starts from. The guide is the one that was trained against
the run's own samples; the paper's for image-to-image is trained against translated pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from methods.core.guidance import Guide, guided
from methods.core.pixels import from_uint8, to_uint8
from methods.core.rng import TILE, SeededRng
from methods.core.types import Denoiser, Source
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.row_index import open_rows
from pipeline.data.shards import Pictures
from pipeline.errors import UserError
from pipeline.metrics.features.extractors import SmallNetwork
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.values.frechet import frechet_distance
from pipeline.sampling.sampler import GuidedSampler, SamplerConfig, guided_sampler, sampler_spec
from pipeline.stages.features import NETWORK, reference_file

ROWS, EXAMPLES = "translations.parquet", "examples.npy"
SHOWN = 8  # pictures among the examples
FIRST_SEED, STRIDE = 2_000_000_000, 1_000_000  # of the noise: no other stage's, and between two sets
BLOCK = 2  # pixels per side that the corruption makes one
GUIDANCE = (True, False)


@dataclass(frozen=True)
class Config:
    sampler: SamplerConfig
    starts: list[float]
    images: int
    sets: int


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    held_out = open_rows(inputs["prepare"].path, "held_out")
    if not 1 < config.images <= len(held_out):
        raise UserError(f"images: {config.images} came, but 2 to {len(held_out)} can be: so many are held out")
    chosen = held_out.rows(slice(config.images)).read()
    source = from_uint8(torch.from_numpy(blocky(chosen.images)))
    network = SmallNetwork.load(inputs["features"].path / NETWORK)
    real = Reference.load(inputs["features"].path / reference_file(network.name, "train"))
    artist = guided_sampler(
        sampler_spec({role: inputs[role] for role in inputs if role not in ("prepare", "features")}, config.sampler)
    )

    def measured(made: Tensor) -> dict[str, float]:
        pictures = to_uint8(made).numpy()
        distance = frechet_distance(FeatureStats.of(network.outputs(pictures).features), real.stats, real.factor).value
        return {"distance": (made - source).square().mean().item(), "fd": distance}

    clean = measured(from_uint8(torch.from_numpy(chosen.images)))
    rows: list[dict[str, float | bool]] = []
    examples = [chosen.images[:SHOWN], to_uint8(source[:SHOWN]).numpy()]
    for start in config.starts:
        for is_guided in GUIDANCE:
            for number in range(config.sets):
                seed = FIRST_SEED + number * STRIDE
                made = torch.cat(list(_translated(artist, source, chosen, start, seed, is_guided)))[: len(source)]
                rows.append({"start": start, "is_guided": is_guided, "set": number} | measured(made))
                if number == 0:
                    examples.append(to_uint8(made[:SHOWN]).numpy())
        context.watch.progress(len(rows), len(config.starts) * len(GUIDANCE) * config.sets)
    pq.write_table(pa.Table.from_pylist(rows), out.path / ROWS)
    np.save(out.path / EXAMPLES, np.stack(examples))
    out.facts.update(images=config.images, source_fd=measured(source)["fd"], real_fd=clean["fd"])
    out.seeds.update(noise=[FIRST_SEED, FIRST_SEED + (config.sets - 1) * STRIDE + config.images])


def blocky(images: np.ndarray) -> np.ndarray:
    """uint8 [n, C, H, W] at half the resolution, in blocks."""
    pictures = torch.from_numpy(images).double()
    coarse = torch.nn.functional.avg_pool2d(pictures, BLOCK)
    return coarse.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3).round().to(torch.uint8).numpy()


def _translated(
    artist: GuidedSampler, source: Tensor, chosen: Pictures, start: float, seed: int, is_guided: bool
) -> Iterator[Tensor]:
    """Tile by tile, the last one filled up from the beginning. Classes are the pictures' own."""
    for first in range(0, len(source), TILE):
        index = torch.arange(first, first + TILE) % len(source)
        labels = torch.from_numpy(chosen.labels[index.numpy()]).to(artist.device) if artist.data.classes else None
        advisers = artist.guides if is_guided else []
        guides = [adviser.method.guide(adviser.nets, labels, adviser.use) for adviser in advisers]
        rng = SeededRng(range(seed + first, seed + first + TILE), artist.device)
        begin = Source(source[index].to(artist.device), start)
        wrap = partial(_steered, guides)
        yield artist.method.sample(artist.nets, artist.sampling, labels, rng, wrap, begin).cpu()


def _steered(guides: Sequence[Guide], denoise: Denoiser) -> Denoiser:
    return guided(denoise, *guides)
