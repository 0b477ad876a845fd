"""Trainings that diverge stop soon, and name the step; a discriminator's overfitting is recorded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from methods.core.types import Batch, DataSpec
from methods.gan import GAN
from pipeline.config.build import build
from pipeline.context import RunContext
from pipeline.data.artifacts import read_artifact
from pipeline.data.loader import Epochs
from pipeline.data.shards import Pictures, write_pictures
from pipeline.errors import ConfigError, TrilemmaError
from pipeline.launch.launcher import InProcess
from pipeline.stages import pretrain
from pipeline.stages.pretrain import Train
from pipeline.store.publish import new_artifact
from pipeline.store.store import State, Store
from pipeline.training import loop as training
from pipeline.training.divergence import GRACE_STEPS, check_spread
from pipeline.training.loop import Job, outcome_of, train
from tests.pipeline.training.test_training import ALONE, RecordingWatch

DATA = DataSpec((1, 4, 4), 0, 1.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 4)).astype(np.uint8)
BATCHES = Epochs(IMAGES[:32], None, 16, 0)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return Store(str(tmp_path)).state("ab" * 32)


@pytest.fixture(autouse=True)
def _checkpoint_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)


def job(change: Callable[[torch.Tensor], torch.Tensor], since: int, steps: int = 200) -> Job:
    """A GAN whose data change at a step, counted from 0."""

    def batches(step: int) -> Batch:
        batch = BATCHES(step)
        return batch.each(change) if step >= since else batch

    method = GAN(width=32, depth=1, latent=16, generator_lr=1e-3, discriminator_lr=1e-2)
    return Job(method, DATA, batches, steps, 16, 0, "float32", collapse=Train().collapse)


def stopped(job: Job, state: State) -> str:
    with pytest.raises(TrilemmaError) as raised:
        train(ALONE, job, state, RecordingWatch())
    return str(raised.value)


def test_a_loss_that_is_no_longer_finite_stops_within_a_record_and_is_replayed_exactly(state: State) -> None:
    poisoned = job(lambda images: images * float("nan"), since=33)
    message = stopped(poisoned, state)
    assert "discriminator_loss" in message
    assert "at step 34: lower the learning rate" in message
    assert message.endswith("key abababababab, which the same command replays exactly from step 20")
    assert stopped(poisoned, state) == message


def test_a_generator_whose_images_become_alike_is_stopped_within_fifty_steps(state: State) -> None:
    """Alike beside the real ones, whose differences grow a thousandfold."""
    collapsing = job(lambda images: 1000 * images, since=45)
    message = stopped(collapsing, state)
    assert "collapsed by step 60: its images differ by" in message
    assert message.endswith("key abababababab, which the same command replays exactly from step 40")
    assert stopped(collapsing, state) == message


def test_healthy_trainings_continue_and_without_a_share_any_training_does(state: State, tmp_path: Path) -> None:
    train(ALONE, job(lambda images: images, since=0, steps=60), state, RecordingWatch())
    other = Store(str(tmp_path / "other")).state("0" * 64)
    train(ALONE, replace(job(lambda images: 1000 * images, since=20, steps=60), collapse=None), other, RecordingWatch())
    assert outcome_of(other).finished


def test_a_small_spread_is_no_collapse_before_the_end_of_the_grace_steps() -> None:
    alike, apart = ({"real_spread": 1.0, "fake_spread": spread} for spread in (0.001, 0.5))
    check_spread([{"step": 20, **alike}], 0.02, "")
    check_spread([{"step": 20, **alike}, {"step": 40, "denoiser_loss": 1.0}], 0.02, "")
    check_spread([{"step": 20, **apart}], 0.02, "")
    for history in ([{"step": 20, **apart}, {"step": 40, **alike}], [{"step": GRACE_STEPS + 20, **alike}]):
        with pytest.raises(TrilemmaError, match="collapsed"):
            check_spread(history, 0.02, "")


def test_one_mode_of_twenty_five_is_partial_loss_not_collapse() -> None:
    """Its own spread beside that of the whole mixture."""
    check_spread(
        [{"step": 2000, "real_spread": 2**0.5 * 7.08, "fake_spread": 2**0.5 * 0.3325}], Train().collapse or 0, ""
    )


def test_an_overfitted_discriminator_has_a_logit_gap_to_unseen_data(state: State) -> None:
    watched = replace(job(lambda images: images, since=0, steps=200), unseen=Epochs(IMAGES[32:], None, 16, 0))
    train(ALONE, watched, state, RecordingWatch())
    rows = outcome_of(state).history
    for row in rows:
        assert row["logit_gap"] == pytest.approx(row["real_logit"] - row["held_out_real_logit"])
    assert np.mean([row["logit_gap"] for row in rows[-5:]]) > 0.5


def test_recording_logits_of_unseen_data_changes_no_weight(state: State, tmp_path: Path) -> None:
    plain, other = job(lambda images: images, since=0, steps=40), Store(str(tmp_path / "other")).state("0" * 64)
    train(ALONE, plain, state, RecordingWatch())
    train(ALONE, replace(plain, unseen=Epochs(IMAGES[32:], None, 16, 0)), other, RecordingWatch())
    for net, weights in outcome_of(state).weights.items():
        for name, value in weights.items():
            assert torch.equal(value, outcome_of(other).weights[net][name])


def test_pretrain_records_spread_and_logit_gap_of_methods_with_a_discriminator(state: State, tmp_path: Path) -> None:
    with new_artifact(tmp_path / "data", "prepare", "noise", {}, {}) as draft:
        for split, images in (("train", IMAGES[:32]), ("held_out", IMAGES[32:])):
            write_pictures(draft.path, split, Pictures(images, np.zeros(len(images), np.int64), np.arange(len(images))))
        draft.facts.update(shape=list(DATA.shape), classes=0, std=DATA.std, held_out=len(IMAGES) - 32)
    config = pretrain.Config("gan.GAN", {"width": 8}, Train(steps=20, batch=16))
    context: Any = RunContext(InProcess(), state, RecordingWatch())  # type: ignore[arg-type]
    with new_artifact(tmp_path / "run", "pretrain", "gan", {}, {}) as draft:
        pretrain.run({"data": read_artifact(tmp_path / "data")}, config, draft, context)
    (row,) = pq.read_table(tmp_path / "run" / "history.parquet").to_pylist()
    assert row.keys() >= {"step", "fake_spread", "real_spread", "held_out_real_logit", "logit_gap"}


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_collapse_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=f"collapse: {share} does not fit"):
        build(Train, {"collapse": share}, "train")
