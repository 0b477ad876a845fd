"""Early stopping of `classify` and `discriminate`: part of the training pictures is held out, and the weights with the
lowest loss there are kept."""

from dataclasses import dataclass

import numpy as np

from methods.core.rng import StepRng
from methods.core.types import Batch, Trainable
from pipeline.data.artifacts import Draft
from pipeline.data.loader import Epochs
from pipeline.data.row_index import ShardedRows
from pipeline.errors import UserError
from pipeline.training.loop import HeldOut, Outcome, Precision, check_at_least_one

MAX_VALIDATION_VALUES = 2**28  # of all the pictures of one check together: 1 GiB in float32


@dataclass(frozen=True)
class GuideTrain:
    """The `train` block of a guide. Held-out pictures come from the training split, never from the evaluated one."""

    steps: int = 2000  # at most
    batch: int = 128  # real images per step, and for a discriminator as many fakes
    seed: int = 0
    precision: Precision = "float32"
    held_out: float = 0.1  # share of the real and of the fake pictures
    check_every: int = 100  # steps
    patience: int = 5  # checks without a lower held-out loss

    def __post_init__(self) -> None:
        check_at_least_one(steps=self.steps, batch=self.batch)
        if not 0 < self.held_out < 1:
            raise ValueError(f"train.held_out: {self.held_out} came, a share between 0 and 1 was wanted")


def split_validation(pictures: ShardedRows, share: float) -> tuple[ShardedRows, ShardedRows]:
    """The pictures to train on, and the last ones, to validate with: the same for any guide on this data.

    Of the last ones as many as `MAX_VALIDATION_VALUES` allows, evenly spaced.
    """
    kept = len(pictures) - round(share * len(pictures))
    if not 0 < kept < len(pictures):
        raise UserError(
            f"train.held_out: {share} of {len(pictures)} pictures leaves none to train on, or none to check"
        )
    unseen = pictures.rows(slice(kept, None))
    most = max(1, MAX_VALIDATION_VALUES // int(np.prod(pictures.shape[1:])))
    return pictures.rows(slice(kept)), unseen.spread(most)


def validation_batch(pictures: ShardedRows, classes: int, count: int) -> Batch:
    """`count` of the pictures as one batch."""
    images, labels, _ = pictures.read()
    return Epochs(images, labels if classes else None, count, 0)(0)


def held_out(method: Trainable, batch: Batch, block: GuideTrain) -> HeldOut:
    """With draws fixed once, so that checks differ by the weights alone."""
    (player,) = method.players()
    draws = method.draw(player.name, batch, StepRng(block.seed, 0, "held out"))
    return HeldOut(player.name, batch, draws, block.check_every, block.patience)


def note_best(out: Draft, outcome: Outcome) -> None:
    """Held-out loss and accuracy of the kept weights, over all noise levels."""
    best = next(row for row in outcome.history if row["step"] == outcome.best_step)
    out.facts.update(
        best_step=outcome.best_step, held_out_loss=outcome.best_loss, held_out_accuracy=best["held_out_accuracy"]
    )
