"""classify: train a classifier of noisy images; the weights with the lowest validation loss are kept."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config.build import Block, build_method
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.loader import Prepared, checked
from pipeline.data.row_index import open_rows
from pipeline.training.early_stopping import GuideTrain, split_validation, train_guide, validation_batch
from pipeline.training.loop import Job
from pipeline.training.networks import data_spec


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    train: GuideTrain


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    method, block = build_method(config.method, config.model), config.train
    data = data_spec(inputs["data"].manifest.facts)
    kept, held_out = split_validation(open_rows(inputs["data"].path, "train"), block.held_out)
    batches = checked(Prepared(kept, data.classes > 0, block.batch, block.seed), context.launch.workers)
    job = Job(method, data, batches, block.steps, block.batch, block.seed, block.precision, block.draws)
    train_guide(job, validation_batch(held_out, data.classes, len(held_out)), block, out, context)
