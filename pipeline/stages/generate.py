"""generate: samples that discriminators are trained against, with other seeds than those that are evaluated."""

from collections.abc import Mapping
from dataclasses import dataclass

from methods.core.numbers import Count
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.sampling.fan_out import sample_sets
from pipeline.sampling.sampler import SamplerConfig

FIRST_SEED = 1_000_000_000


@dataclass(frozen=True)
class Config:
    sampler: SamplerConfig
    images: Count


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    sample_sets(inputs, config.sampler, {"samples": range(FIRST_SEED, FIRST_SEED + config.images)}, out, context)
