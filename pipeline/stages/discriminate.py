"""discriminate: train a guide to tell real pictures from a run's fakes; the weights with the lowest held-out loss are
kept."""

from collections.abc import Mapping
from dataclasses import dataclass

from methods.core.types import Batch
from pipeline.config.build import Block, build_method
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.loader import Pairs, Prepared, distinct
from pipeline.data.row_index import open_rows
from pipeline.training.early_stopping import GuideTrain, held_out, note_best, split_validation, validation_batch
from pipeline.training.loop import Job, outcome_of, train, write_trained
from pipeline.training.networks import data_spec, load_weights


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    train: GuideTrain


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    """A trunk among the inputs is a classifier: its weights are frozen, and not saved again."""
    method = build_method(config.method, config.model)
    block = config.train
    data = data_spec(inputs["data"].manifest.facts)
    real, real_unseen = split_validation(open_rows(inputs["data"].path, "train"), block.held_out)
    fake, fake_unseen = split_validation(open_rows(inputs["fakes"].path, "samples"), block.held_out)
    pairs = Pairs(
        distinct(Prepared(real, data.classes > 0, block.batch, block.seed)),
        distinct(Prepared(fake, data.classes > 0, block.batch, block.seed + 1)),
    )
    smaller = min(len(real_unseen), len(fake_unseen))
    parts = [validation_batch(part, data.classes, smaller) for part in (real_unseen, fake_unseen)]
    unseen = Batch(parts[0].images, parts[0].labels, parts[1].images, parts[1].labels)
    given = {"trunk": load_weights(inputs["trunk"].path)["classifier"]} if "trunk" in inputs else {}
    best = held_out(method, unseen, block)
    job = Job(method, data, pairs, block.steps, block.batch, block.seed, block.precision, best, given=given)
    context.launch.fit(train, job, context.state, context.watch)
    outcome = outcome_of(context.state)
    for name in given:
        del outcome.weights[name]
    write_trained(out, outcome, data, block.seed)
    note_best(out, outcome)
