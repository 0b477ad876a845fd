"""Averages of any length, made of those that a training stored."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from methods.core.posthoc import power_decay
from methods.edm import EDM
from pipeline.data.artifacts import Draft
from pipeline.errors import UserError
from pipeline.store.store import Store
from pipeline.training import loop as training
from pipeline.training.averages import load_average, snapshot_steps, write_averages
from pipeline.training.loop import Job, outcome_of, train
from tests.pipeline.training.test_training import ALONE, DATA, RecordingWatch, job

LENGTHS, STEPS, BATCH = (0.05, 0.10), 60, 16


def averaging(snapshots: int = 12) -> Job:
    plain = job(STEPS)
    return Job(
        plain.method, DATA, plain.batches, STEPS, BATCH, 0, "float32",
        ema_lengths=LENGTHS, ema_steps=snapshot_steps(STEPS, snapshots),
    )  # fmt: skip


def written(folder: Path, watch: RecordingWatch, kill: RecordingWatch | None = None) -> Draft:
    """The artifact of a training, perhaps killed once."""
    state = Store(str(folder / "store")).state("0" * 64)
    if kill is not None:
        with pytest.raises(KeyboardInterrupt):
            train(ALONE, averaging(), state, kill)
    train(ALONE, averaging(), state, watch)
    draft = Draft(folder / "out")
    draft.path.mkdir()
    write_averages(draft, state, LENGTHS, averaging().ema_steps, BATCH)
    return draft


def averaged(draft: Draft, length: float) -> dict[str, Tensor]:
    nets = EDM(net="mlp", width=8, depth=1).build(DATA)
    load_average(nets, draft.path, draft.facts, length)
    return {name: p.detach().clone() for name, p in nets["denoiser"].named_parameters()}


def test_another_length_is_nearly_the_average_that_a_training_would_have_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[dict[str, Tensor]] = []

    def recorded(*arguments: Any) -> None:
        net = arguments[1].nets["denoiser"]
        weights.append({name: p.detach().clone() for name, p in net.named_parameters()})

    monkeypatch.setattr(training, "RECORD_EVERY", 1)
    monkeypatch.setattr(training, "_record", lambda job, state, *rest: recorded(job, state))
    draft = written(tmp_path, RecordingWatch())
    for length, tolerance in ((0.05, 1e-5), (0.075, 3e-3), (0.15, 5e-2)):
        wanted = {name: value.double() for name, value in weights[0].items()}
        for step, now in enumerate(weights, 1):
            decay = power_decay(length, step * BATCH, BATCH)
            wanted = {name: decay * value + (1 - decay) * now[name] for name, value in wanted.items()}
        found = averaged(draft, length)
        moved = torch.cat([(weights[-1][name] - weights[0][name]).flatten() for name in wanted]).abs().max()
        error = torch.cat([(found[name] - wanted[name]).flatten() for name in wanted]).abs().max()
        assert error < tolerance * moved, length


def test_a_killed_training_stores_the_same_averages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    drafts = []
    for name, kill in (("whole", None), ("killed", RecordingWatch(kill_at=40))):
        (tmp_path / name).mkdir()
        drafts.append(written(tmp_path / name, RecordingWatch(), kill))
    whole, killed = (averaged(draft, 0.08) for draft in drafts)
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    files = [sorted(path.name for path in (draft.path / "averages").iterdir()) for draft in drafts]
    assert files[0] == files[1]
    assert len(files[0]) == 12


def test_the_result_without_them_is_the_same_to_the_bit(tmp_path: Path) -> None:
    weights = []
    for name, work in (("with", averaging()), ("without", job(STEPS))):
        state = Store(str(tmp_path / name)).state("0" * 64)
        train(ALONE, work, state, cast(Any, RecordingWatch()))
        weights.append(outcome_of(state).weights["denoiser"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_length_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    nets = SimpleNamespace()
    with pytest.raises(UserError, match=r"ema: 0\.1 came, but this run stored no averages: set its train\.ema_lengths"):
        load_average(cast(Any, nets), tmp_path, {}, 0.1)
    facts = {"averages": {"lengths": [0.05], "steps": [1], "batch": 1}}
    with pytest.raises(UserError, match=r"ema: 0\.3 came, a relative length above 0 and at most 0\.288 was wanted"):
        load_average(cast(Any, nets), tmp_path, facts, 0.3)
