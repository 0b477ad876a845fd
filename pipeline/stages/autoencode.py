"""autoencode: train an autoencoder on prepared images."""

from collections.abc import Mapping
from dataclasses import dataclass

from methods.core.numbers import Count, Seed
from methods.core.rng import rows_of_worker
from pipeline.config.build import Block, build_method
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.loader import Prepared, checked
from pipeline.data.row_index import open_rows
from pipeline.training.loop import DrawsOn, Job, Precision, outcome_of, train, write_trained
from pipeline.training.networks import data_spec


@dataclass(frozen=True)
class Train:
    """The `train` block of an autoencoder."""

    steps: Count = 2000
    batch: Count = 64  # images per step, over all workers
    seed: Seed = 0
    precision: Precision = "float32"
    draws: DrawsOn = "cpu"  # whose generators draw noise; cuda: faster on a GPU, other numbers
    flip: bool = False  # mirror each image with probability 1/2

    def __post_init__(self) -> None:
        rows_of_worker(self.batch, 0, 1)


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    train: Train


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    method, block = build_method(config.method, config.model), config.train
    data = data_spec(inputs["data"].manifest.facts)
    method.latent_shape(data.shape)  # ValueError for data that it cannot encode
    rows = open_rows(inputs["data"].path, "train")
    batches = checked(Prepared(rows, False, block.batch, block.seed, block.flip), context.launch.workers)
    job = Job(method, data, batches, block.steps, block.batch, block.seed, block.precision, block.draws)
    context.launch.fit(train, job, context.state, context.watch)
    write_trained(out, outcome_of(context.state), job)
