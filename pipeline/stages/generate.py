"""generate: fakes for guides to train against, on seeds that no evaluated picture has."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.artifacts import Artifact, Draft
from pipeline.painting import Sampler, paint_sets
from pipeline.stage import Around

FIRST_SEED = 1_000_000_000


@dataclass(frozen=True)
class Config:
    sampler: Sampler
    images: int


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, around: Around) -> None:
    sets = {"samples": range(FIRST_SEED, FIRST_SEED + config.images)}
    paint_sets(inputs, config.sampler, sets, out, around)
