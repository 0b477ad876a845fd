"""classify: train a guide to classify noisy pictures; the weights with the lowest held-out loss are kept."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config.build import Block, build_method
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.loader import Prepared, distinct
from pipeline.data.row_index import open_rows
from pipeline.training.early_stopping import GuideTrain, held_out, note_best, split_validation, validation_batch
from pipeline.training.loop import Job, outcome_of, train, write_trained
from pipeline.training.networks import data_spec


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    train: GuideTrain


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    method = build_method(config.method, config.model)
    block = config.train
    data = data_spec(inputs["data"].manifest.facts)
    kept, unseen = split_validation(open_rows(inputs["data"].path, "train"), block.held_out)
    batches = distinct(Prepared(kept, data.classes > 0, block.batch, block.seed))
    best = held_out(method, validation_batch(unseen, data.classes, len(unseen)), block)
    job = Job(method, data, batches, block.steps, block.batch, block.seed, block.precision, best)
    context.launch.fit(train, job, context.state, context.watch)
    outcome = outcome_of(context.state)
    write_trained(out, outcome, data, block.seed)
    note_best(out, outcome)
