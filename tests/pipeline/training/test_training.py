"""Training with checkpoints, history and early stopping."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.classifier_guidance import Classifier
from methods.core.rng import StepRng
from methods.core.types import Batch, DataSpec
from methods.discriminator_guidance import Discriminator
from methods.edm import EDM
from pipeline.config.build import build
from pipeline.context import Watch, Worker
from pipeline.data.loader import Epochs, Pairs
from pipeline.data.row_index import open_rows
from pipeline.data.shards import Pictures, write_pictures
from pipeline.errors import ConfigError, TrilemmaError
from pipeline.stages.pretrain import Train
from pipeline.store.store import State, Store
from pipeline.training import loop as training
from pipeline.training.early_stopping import GuideTrain, split_validation
from pipeline.training.loop import HeldOut, Job, Precision, outcome_of, train
from pipeline.training.stacked import StackTrain

DATA = DataSpec((1, 4, 4), 2, 1.0)
ALONE = Worker(0, 1, torch.device("cpu"), None)
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 4)).astype(np.uint8)
LABELS = np.arange(60) % 2


@dataclass
class RecordingWatch(Watch):
    """A watch that records steps, and kills the training at one."""

    rows: list[int] = field(default_factory=list)
    kill_at: int | None = None

    @contextmanager
    def opened(self) -> Iterator["RecordingWatch"]:
        yield self

    def progress(self, done: int, total: int) -> None:
        if self.kill_at is not None and done >= self.kill_at:
            raise KeyboardInterrupt

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.rows.append(step)

    def samples(self, key: str, images: np.ndarray, step: int) -> None: ...


@pytest.fixture
def state(tmp_path: Path) -> State:
    return Store(str(tmp_path)).state("0" * 64)


@pytest.fixture(autouse=True)
def _checkpoint_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)


def job(steps: int = 100, lr: float = 1e-3, held_out: HeldOut | None = None, precision: Precision = "float32") -> Job:
    method = EDM(net="mlp", width=8, depth=1, lr=lr, lr_rampup_images=0)
    return Job(method, DATA, Epochs(IMAGES, LABELS, 16, 0), steps, 16, 0, precision, held_out=held_out)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_killed_training_goes_on_to_the_same_bits(precision: Precision, state: State, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "other")).state("1" * 64)
    train(ALONE, job(precision=precision), other, RecordingWatch())
    with pytest.raises(KeyboardInterrupt):
        train(ALONE, job(precision=precision), state, RecordingWatch(kill_at=60))
    watch = RecordingWatch()
    train(ALONE, job(precision=precision), state, watch)
    undisturbed, resumed = outcome_of(other), outcome_of(state)
    assert resumed.history == undisturbed.history
    assert watch.rows == [20, 40, 60, 80, 100]  # the complete curve, before and after the kill
    for name, value in undisturbed.weights["denoiser"].items():
        assert torch.equal(value, resumed.weights["denoiser"][name])


def test_a_training_whose_state_was_damaged_begins_anew_to_the_same_bits(state: State, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(ALONE, job(), state, RecordingWatch(kill_at=60))
    file = next(tmp_path.glob("state/*/training.pt"))
    saved = file.read_bytes()
    file.write_bytes(saved[:5000] + bytes(byte ^ 1 for byte in saved[5000:]))
    watch, other = RecordingWatch(), Store(str(tmp_path / "other")).state("1" * 64)
    train(ALONE, job(), state, watch)
    train(ALONE, job(), other, RecordingWatch())
    assert watch.rows == [20, 40, 60, 80, 100]
    for name, value in outcome_of(other).weights["denoiser"].items():
        assert torch.equal(value, outcome_of(state).weights["denoiser"][name])


def test_bf16_is_the_precision_of_a_loss_and_weights_stay_float32(state: State, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "other")).state("1" * 64)
    train(ALONE, job(), other, RecordingWatch())
    train(ALONE, job(precision="bf16"), state, RecordingWatch())
    full, narrow = outcome_of(other), outcome_of(state)
    assert {value.dtype for value in narrow.weights["denoiser"].values()} == {torch.float32}
    assert narrow.history != full.history
    assert narrow.history[-1]["loss"] == pytest.approx(full.history[-1]["loss"], rel=0.05)


def test_a_pretrained_trunk_is_used_and_not_trained(state: State) -> None:
    classifier = Classifier(net="mlp", width=8, depth=1)
    torch.manual_seed(5)
    pretrained = {"trunk": classifier.build(DATA)["classifier"].state_dict()}
    method = Discriminator(body="head", trunk=classifier, width=8, depth=1)
    pairs = Pairs(Epochs(IMAGES[:30], LABELS[:30], 16, 0), Epochs(IMAGES[30:], LABELS[30:], 16, 1))
    train(ALONE, Job(method, DATA, pairs, 20, 16, 0, "float32", pretrained=pretrained), state, RecordingWatch())
    for name, value in outcome_of(state).weights["trunk"].items():
        assert torch.equal(value, pretrained["trunk"][name])


def test_a_finished_training_does_nothing_again(state: State) -> None:
    train(ALONE, job(), state, RecordingWatch())
    train(ALONE, job(), state, RecordingWatch(kill_at=0))


def test_the_error_for_a_diverged_training_names_the_step(state: State) -> None:
    with pytest.raises(TrilemmaError, match=r"loss no longer finite at step \d+: lower the learning rate"):
        train(ALONE, job(lr=1e30), state, RecordingWatch())


@pytest.mark.parametrize("block", [Train, GuideTrain, StackTrain])
@pytest.mark.parametrize("name", ["steps", "batch"])
def test_no_steps_and_empty_batches_are_refused_before_any_work(block: type, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: 0 does not fit: Input should be greater than or equal to 1"):
        build(block, {name: 0}, "train")


def test_a_guide_keeps_the_weights_of_least_held_out_loss_and_stops(state: State) -> None:
    """Random labels of real and fake: the network can only overfit, so the first check is the best."""
    method = Discriminator(body="mlp", width=64, depth=2, lr=3e-3)
    pairs = Pairs(Epochs(IMAGES[:20], LABELS[:20], 16, 0), Epochs(IMAGES[20:40], LABELS[20:40], 16, 1))
    checked = Pairs(Epochs(IMAGES[40:50], LABELS[40:50], 10, 0), Epochs(IMAGES[50:], LABELS[50:], 10, 0))(0)
    draws = method.draw("discriminator", checked, StepRng(0, 0, "held out"))
    held_out = HeldOut("discriminator", checked, draws, every=20, patience=3)
    train(ALONE, Job(method, DATA, pairs, 2000, 16, 0, "float32", held_out=held_out), state, RecordingWatch())
    outcome = outcome_of(state)
    losses = {row["step"]: row["held_out_bce"] for row in outcome.history if "held_out_bce" in row}
    assert outcome.best_loss == min(losses.values()) == losses[outcome.best_step]
    assert outcome.steps == outcome.best_step + 3 * 20 < 2000
    nets = method.build(DATA)
    nets["discriminator"].load_state_dict(outcome.weights["discriminator"])
    nets["discriminator"].eval()
    with torch.no_grad():
        loss, _ = method.loss("discriminator", nets, checked, draws, 0)
    assert float(loss) == pytest.approx(outcome.best_loss, rel=1e-6)


def test_held_out_pictures_are_of_every_class_and_never_trained_on(tmp_path: Path) -> None:
    write_pictures(tmp_path, "train", Pictures(IMAGES, np.arange(60) % 10, np.arange(60)))
    kept, held_out = (part.read() for part in split_validation(open_rows(tmp_path, "train"), 0.2))
    assert not set(kept.seeds) & set(held_out.seeds)
    assert set(held_out.labels) == set(range(10)) == set(kept.labels)


def test_a_batch_is_images_in_minus_one_to_one() -> None:
    batch: Batch = Epochs(IMAGES, None, 16, 0)(3)
    assert batch.labels is None
    assert batch.images.shape == (16, 1, 4, 4)
    assert -1 <= float(batch.images.min()) < float(batch.images.max()) <= 1


def test_a_flipped_batch_shows_the_same_pictures_half_of_them_mirrored() -> None:
    plain, flipped = (Epochs(IMAGES, LABELS, 48, 0, flip)(3) for flip in (False, True))
    mirrored = (flipped.images == plain.images.flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped.images[~mirrored], plain.images[~mirrored])
    assert 10 < int(mirrored.sum()) < 38
    assert torch.equal(Epochs(IMAGES, LABELS, 48, 0, True)(3).images, flipped.images)
