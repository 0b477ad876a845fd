"""discriminate: train a discriminator of real images against a run's samples, with early stopping."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config.build import Block, build_method
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.loader import Pairs, Prepared, checked
from pipeline.data.row_index import open_rows
from pipeline.training.early_stopping import GuideTrain, split_validation, train_guide, validation_batch
from pipeline.training.latents import check_encoder
from pipeline.training.loop import Job
from pipeline.training.networks import data_spec, load_weights


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    train: GuideTrain


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    """A trunk among the inputs is a classifier: its weights are frozen, and not saved again."""
    check_encoder(inputs)
    method, block = build_method(config.method, config.model), config.train
    data = data_spec(inputs["data"].manifest.facts)
    real, real_held_out = split_validation(open_rows(inputs["data"].path, "train"), block.held_out)
    fake, fake_held_out = split_validation(open_rows(inputs["fakes"].path, "samples"), block.held_out)
    pairs = Pairs(
        checked(Prepared(real, data.classes > 0, block.batch, block.seed), context.launch.workers),
        checked(Prepared(fake, data.classes > 0, block.batch, block.seed + 1), context.launch.workers),
    )
    smaller = min(len(real_held_out), len(fake_held_out))
    halves = [validation_batch(half, data.classes, smaller) for half in (real_held_out, fake_held_out)]
    validation = halves[0]._replace(fakes=halves[1].images, fake_labels=halves[1].labels)
    trunk = {"trunk": load_weights(inputs["trunk"].path)["classifier"]} if "trunk" in inputs else {}
    job = Job(method, data, pairs, block.steps, block.batch, block.seed, block.precision, block.draws, pretrained=trunk)
    train_guide(job, validation, block, out, context)
