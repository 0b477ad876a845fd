"""sample: the images of a run or a guided entry that are evaluated; one set per sampling seed."""

from collections.abc import Mapping
from dataclasses import dataclass

from methods.core.numbers import Count
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.sampling.fan_out import sample_sets
from pipeline.sampling.sampler import SamplerConfig

SEEDS_BETWEEN_SETS = 1_000_000


@dataclass(frozen=True)
class Config:
    sampler: SamplerConfig
    images: Count  # per set
    sample_seeds: Count  # sets


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    starts = range(0, config.sample_seeds * SEEDS_BETWEEN_SETS, SEEDS_BETWEEN_SETS)
    sets = {f"samples-{number}": range(start, start + config.images) for number, start in enumerate(starts)}
    sample_sets(inputs, config.sampler, sets, out, context)
