"""discriminate: a guide that tells real pictures from a run's fakes; kept where its held-out loss is least."""

from collections.abc import Mapping
from dataclasses import dataclass

from methods.core.rng import StepRng
from methods.core.types import Batch, Trainable
from pipeline.artifacts import Artifact, Draft
from pipeline.config import Block, build_method
from pipeline.errors import UserError
from pipeline.shards import Pictures, read_pictures
from pipeline.stage import Around
from pipeline.training import Epochs, HeldOut, Job, Precision, outcome_of, train, write_trained
from pipeline.weights import data_spec


@dataclass(frozen=True)
class Train:
    """The `train` block of a guide. Held-out pictures come from the training split, never from the evaluated one."""

    steps: int = 2000  # at most
    batch: int = 128  # real images per step, and as many fakes
    seed: int = 0
    precision: Precision = "float32"
    held_out: float = 0.1  # share of the real and of the fake pictures
    check_every: int = 100  # steps
    patience: int = 5  # checks without a lower held-out loss

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"train.held_out: {self.held_out} came, a share between 0 and 1 was wanted")


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    train: Train


@dataclass(frozen=True)
class Pairs:
    """Batches of real pictures and fakes, each walked in its own order."""

    real: Epochs
    fake: Epochs

    def __call__(self, step: int) -> Batch:
        real, fake = self.real(step), self.fake(step)
        return Batch(real.images, real.labels, fake.images, fake.labels)


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, around: Around) -> None:
    method = build_method(config.method, config.model)
    block = config.train
    data = data_spec(inputs["data"].manifest.facts)
    real, real_held_out = _split(read_pictures(inputs["data"].path, "train"), block.held_out)
    fake, fake_held_out = _split(read_pictures(inputs["fakes"].path, "samples"), block.held_out)
    pairs = Pairs(
        _epochs(real, data.classes, block.batch, block.seed), _epochs(fake, data.classes, block.batch, block.seed + 1)
    )
    smaller = min(len(real_held_out), len(fake_held_out))
    pairs_held_out = Pairs(
        _epochs(real_held_out, data.classes, smaller, 0), _epochs(fake_held_out, data.classes, smaller, 0)
    )
    held_out = _held_out(method, pairs_held_out(0), block)
    job = Job(method, data, pairs, block.steps, block.batch, block.seed, block.precision, held_out)
    around.launch.fit(train, job, around.state, around.watch)
    outcome = outcome_of(around.state)
    write_trained(out, outcome, data, block.seed)
    out.facts.update(best_step=outcome.best_step, held_out_loss=outcome.best_loss)


def _split(pictures: Pictures, share: float) -> tuple[Pictures, Pictures]:
    """All but the last ones, and those: the same pictures for any guide on this data, of every class."""
    kept = len(pictures) - round(share * len(pictures))
    if not 0 < kept < len(pictures):
        raise UserError(
            f"train.held_out: {share} of {len(pictures)} pictures leaves none to train on, or none to check"
        )
    return pictures.rows(slice(kept)), pictures.rows(slice(kept, None))


def _epochs(pictures: Pictures, classes: int, batch: int, seed: int) -> Epochs:
    return Epochs(pictures.images, pictures.labels if classes else None, batch, seed)


def _held_out(method: Trainable, batch: Batch, block: Train) -> HeldOut:
    """With draws fixed once, so that checks differ by the weights alone."""
    (player,) = method.players()
    draws = method.draw(player.name, batch, StepRng(block.seed, 0, "held out"))
    return HeldOut(player.name, batch, draws, block.check_every, block.patience)
