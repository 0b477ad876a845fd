"""classify: a guide that tells the classes of noisy pictures; kept where its held-out loss is least."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.artifacts import Artifact, Draft
from pipeline.config import Block, build_method
from pipeline.epochs import Prepared, distinct
from pipeline.external import OUTSIDE
from pipeline.held_out import Train, held_out, note_best, split, whole
from pipeline.importers.take_over import take_over
from pipeline.rows import open_rows
from pipeline.stage import Around
from pipeline.training import Job, outcome_of, train, write_trained
from pipeline.weights import data_spec


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    train: Train


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, around: Around) -> None:
    method = build_method(config.method, config.model)
    block = config.train
    if OUTSIDE in inputs:
        take_over(method, inputs, block.format, out)
        return
    data = data_spec(inputs["data"].manifest.facts)
    kept, unseen = split(open_rows(inputs["data"].path, "train"), block.held_out)
    batches = distinct(Prepared(kept, data.classes > 0, block.batch, block.seed))
    best = held_out(method, whole(unseen, data.classes, len(unseen)), block)
    job = Job(method, data, batches, block.steps, block.batch, block.seed, block.precision, best)
    around.launch.fit(train, job, around.state, around.watch)
    outcome = outcome_of(around.state)
    write_trained(out, outcome, data, block.seed)
    note_best(out, outcome)
