"""Early stopping of `classify` and `discriminate`, by the loss on a part of the training split."""

from dataclasses import dataclass, replace

import numpy as np

from methods.core.numbers import Count, Seed, Share
from methods.core.rng import StepRng, rows_of_worker
from methods.core.types import Batch
from pipeline.context import RunContext
from pipeline.data.artifacts import Draft
from pipeline.data.loader import Epochs
from pipeline.data.row_index import ShardedRows
from pipeline.errors import UserError
from pipeline.training.loop import (
    DrawsOn,
    HeldOut,
    Job,
    Precision,
    outcome_of,
    train,
    write_trained,
)

MAX_VALIDATION_VALUES = 2**28  # numbers in the images of one check: 1 GiB in float32


@dataclass(frozen=True)
class GuideTrain:
    """The `train` block of a guide. Validation images come from the training split, never from the evaluated one."""

    steps: Count = 2000  # at most
    batch: Count = 128  # real images per step, and for a discriminator as many generated ones
    seed: Seed = 0
    precision: Precision = "float32"
    draws: DrawsOn = "cpu"  # whose generators draw noise and dropout; cuda: faster on a GPU, other numbers
    held_out: Share = 0.1  # share of the real and of the generated images
    check_every: Count = 100  # steps
    patience: Count = 5  # checks without a lower held-out loss

    def __post_init__(self) -> None:
        rows_of_worker(self.batch, 0, 1)


def split_validation(pictures: ShardedRows, share: float) -> tuple[ShardedRows, ShardedRows]:
    """Training and validation images, the same for any guide on this data; UserError if either has none.

    The last `share` of them is held out; of these, as many evenly spaced ones as `MAX_VALIDATION_VALUES` allows.
    """
    kept = len(pictures) - round(share * len(pictures))
    if not 0 < kept < len(pictures):
        raise UserError(f"train.held_out: {share} of {len(pictures)} images leaves none to train on, or none to check")
    most = max(1, MAX_VALIDATION_VALUES // int(np.prod(pictures.shape[1:])))
    return pictures.take(slice(kept)), pictures.take(slice(kept, None)).evenly_spaced(most)


def validation_batch(pictures: ShardedRows, classes: int, count: int) -> Batch:
    """`count` of the images as one batch, in a fixed random order."""
    read = pictures.read()
    return Epochs(read.images, read.labels if classes else None, count, 0, attributes=read.attributes)(0)


def train_guide(job: Job, validation: Batch, block: GuideTrain, out: Draft, context: RunContext) -> None:
    """Train with early stopping; write the weights with the lowest validation loss, and note loss and accuracy there.

    The draws on the validation batch are fixed, so that checks differ by the weights alone. Pretrained networks are
    not written.
    """
    (player,) = job.method.players()
    draws = job.method.draw(player.name, validation, StepRng(block.seed, 0, "held out"))
    held_out = HeldOut(player.name, validation, draws, block.check_every, block.patience)
    context.launch.fit(train, replace(job, held_out=held_out), context.state, context.watch)
    outcome = outcome_of(context.state)
    for name in job.pretrained:
        del outcome.weights[name]
    write_trained(out, outcome, job)
    best = next(row for row in outcome.history if row["step"] == outcome.best_step)
    out.facts.update(
        best_step=outcome.best_step, held_out_loss=outcome.best_loss, held_out_accuracy=best["held_out_accuracy"]
    )
