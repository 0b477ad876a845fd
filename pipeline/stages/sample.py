"""sample: the pictures that are evaluated, of a run or of a guided entry; several sets, one per sampling seed."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.sampling.fan_out import sample_sets
from pipeline.sampling.sampler import SamplerConfig

STRIDE = 1_000_000  # seeds between two sets


@dataclass(frozen=True)
class Config:
    sampler: SamplerConfig
    images: int  # per set
    sample_seeds: int  # sets


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    sets = {
        f"samples-{number}": range(number * STRIDE, number * STRIDE + config.images)
        for number in range(config.sample_seeds)
    }
    sample_sets(inputs, config.sampler, sets, out, context)
