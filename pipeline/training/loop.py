"""The training loop of `pretrain`, `classify` and `discriminate`: checkpoints, history and early stopping."""

import copy
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from methods.core.dropout import masks_from
from methods.core.loop import TrainState, like, train_steps
from methods.core.rng import BLOCK, SCHEME, StepRng
from methods.core.training.derived import begin
from methods.core.types import Batch, DataSpec, Draws, Nets, Parent, Trainable
from pipeline.context import State, Watch, Worker
from pipeline.data.artifacts import Draft
from pipeline.data.loader import Batches, placed
from pipeline.errors import Interrupted, TrilemmaError, UserError
from pipeline.training.averages import save_averages
from pipeline.training.divergence import check_finite, check_spread
from pipeline.training.networks import data_facts, save_weights

RECORD_EVERY = 20  # steps averaged into one row of the history; timed checkpoints are made at its multiples
PREVIEWS = 5  # in a training
CHECKPOINT_SECONDS = 5.0  # between saves, if one takes CHEAP_SECONDS or less
CHEAP_SECONDS = 0.001
CHECKPOINT = "training.pt"

Row = dict[str, float]
Window = list[dict[str, Tensor]]  # metrics of the steps since the last row
Precision = Literal["float32", "float64", "bf16"]  # bf16: autocast of the loss; weights stay float32
DrawsOn = Literal["cpu", "cuda"]


class HeldOut(NamedTuple):
    """Validation data with fixed draws: the weights of the step with the lowest loss on it are kept."""

    player: str
    batch: Batch
    draws: Draws
    every: int  # steps between checks
    patience: int  # checks without improvement before training stops


@dataclass(frozen=True)
class Job:
    """What to train; equal on every worker. batches: one per step, of `batch` images over all workers."""

    method: Trainable
    data: DataSpec
    batches: Batches
    steps: int
    batch: int
    seed: int
    precision: Precision
    draws: DrawsOn = "cpu"
    held_out: HeldOut | None = None
    pretrained: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)  # weights by network, loaded at first
    parent: Parent | None = None  # the run that a derived run needs
    roles: Sequence[str] = ()  # of the parent
    ema_lengths: Sequence[float] = ()  # of averages that are stored now and then (`core.posthoc`)
    ema_steps: frozenset[int] = frozenset()  # after which they are
    unseen: Batches | None = None  # held-out data, on which a discriminator's logits are recorded
    collapse: float | None = None  # stop when the spread of generated images is below this share of the real ones'
    preview: Callable[[Nets], np.ndarray] | None = None  # samples to log, uint8 [n, C, H, W]


@dataclass
class Outcome:
    """The result of a training so far; plain values and tensors, as checkpoints keep them."""

    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # by network; where held out, the best ones
    history: list[Row] = field(default_factory=list)
    best_step: int = 0
    best_loss: float = math.inf
    checks_without_gain: int = 0  # since then
    steps: int = 0
    finished: bool = False
    window: Window = field(default_factory=list)


class Checkpoint:
    """The last saved state of a training (with `state_dict` and `load_state_dict`), and when the next save is due."""

    def __init__(self, state: State, name: str) -> None:
        self.state, self.name = state, name
        self._saved_at, self._pause = time.monotonic(), CHECKPOINT_SECONDS

    def load(self, device: torch.device | str) -> dict[str, Any]:
        """All that was saved; empty without a checkpoint."""
        saved = self.state.load(self.name)
        return {} if saved is None else torch.load(io.BytesIO(saved), weights_only=True, map_location=device)

    def resume(self, training: Any, device: torch.device) -> dict[str, Any]:
        """Restore the training; return the other values that were saved with it."""
        if content := self.load(device):
            training.load_state_dict(content.pop("training"))
        return content

    def is_due(self) -> bool:
        return time.monotonic() - self._saved_at > self._pause

    def save(self, training: Any, **others: Any) -> None:
        """others: plain values and tensors, which `resume` returns."""
        started, buffer = time.monotonic(), io.BytesIO()
        torch.save({"training": training.state_dict(), **others}, buffer)
        self.state.save(self.name, buffer.getvalue())
        self._saved_at = time.monotonic()
        # Young's rule (1974): sqrt(2 T save_seconds), for a failure every T = 3.5 hours; after 5 s, 6 minutes.
        self._pause = CHECKPOINT_SECONDS * math.sqrt(max((self._saved_at - started) / CHEAP_SECONDS, 1.0))


def train(worker: Worker, job: Job, state: State, watch: Watch) -> None:
    """Train to the end or from the last checkpoint on; rank 0 saves the outcome in `state`. May raise `Interrupted`."""
    draws_on = device_of(job.draws, worker)
    dtype = torch.float64 if job.precision == "float64" else torch.float32
    training = TrainState.fresh(job.method, job.data, job.seed, worker.device, dtype, job.ema_lengths)
    for name, weights in job.pretrained.items():
        training.nets[name].load_state_dict(weights)
    if job.parent is not None:
        begin(job.method, training, job.parent, job.roles)
    checkpoint = Checkpoint(state, CHECKPOINT)
    saved = checkpoint.resume(training, worker.device)
    outcome = Outcome(**saved.get("outcome", {}))
    alone = replace(worker, rank=0, world=1)
    job = replace(job, batches=placed(job.batches, worker), unseen=job.unseen and placed(job.unseen, alone))
    with watch.opened() if worker.rank == 0 else nullcontext() as view:
        if view is not None:
            for row in outcome.history:
                view.metrics(row, int(row["step"]))
        if not outcome.finished:
            _run(worker, job, draws_on, training, outcome, checkpoint, view)


def device_of(draws: DrawsOn, worker: Worker) -> torch.device:
    """Where the worker draws; UserError where it has no such device."""
    if draws == "cuda" and worker.device.type != "cuda":
        raise UserError("train.draws: cuda came, but this worker has no GPU: train on one, or set cpu (other numbers)")
    return worker.device if draws == worker.device.type else torch.device(draws)


def _run(
    worker: Worker,
    job: Job,
    draws_on: torch.device,
    training: TrainState,
    outcome: Outcome,
    checkpoint: Checkpoint,
    view: Watch | None,
) -> None:
    saved_step = training.step
    autocast = torch.bfloat16 if job.precision == "bf16" else None
    steps = partial(train_steps, job.method, training, job.batches, seed=job.seed, batch=job.batch, steps=job.steps)
    steps = partial(steps, rank=worker.rank, world=worker.world, all_reduce=worker.all_reduce)
    for metrics in steps(autocast=autocast, draws_on=draws_on):
        outcome.window.append(metrics)
        step = outcome.steps = training.step
        is_last = step == job.steps
        is_recorded = step % RECORD_EVERY == 0 or is_last
        if is_recorded:
            replay = f"key {checkpoint.state.key[:12]}, which the same command replays exactly from step {saved_step}"
            _record(job, training, outcome, view, replay)
            outcome.window = []
            if job.held_out is not None and outcome.checks_without_gain >= job.held_out.patience:
                break
        if view is not None and step in job.ema_steps:
            save_averages(checkpoint.state, step, training, job.method.players())
        must_stop = worker.must_stop() and not is_last
        if view is not None and (must_stop or (is_recorded and checkpoint.is_due())):
            checkpoint.save(training, outcome=vars(outcome))
            saved_step = step
        if must_stop:
            raise Interrupted(f"step {step} of {job.steps}")
    if view is not None:
        if job.held_out is None:
            outcome.weights = training.weights(job.method.players())
        outcome.finished = True
        checkpoint.save(training, outcome=vars(outcome))


def _record(job: Job, training: TrainState, outcome: Outcome, view: Watch | None, replay: str) -> None:
    """Append a row to the history; validate, log and check for collapse where it is time to."""
    step = training.step
    is_last = step == job.steps
    check_finite(outcome.window, step, replay)
    row = _averaged(outcome.window, step)
    if job.unseen is not None and view is not None and "real_logit" in row:
        _compare_unseen(job, training, row, job.unseen(step))
    if job.held_out is not None and (step % job.held_out.every == 0 or is_last):
        _validate(outcome, job, training, row)
    outcome.history.append(row)
    if view is not None:
        view.metrics(row, step)
        view.progress(step, job.steps)
        preview_every = max(job.steps // PREVIEWS // RECORD_EVERY, 1) * RECORD_EVERY
        if job.preview is not None and (step % preview_every == 0 or is_last):
            view.samples("samples", job.preview(_averaged_networks(job, training)), step)
    if job.collapse is not None:
        check_spread(outcome.history, job.collapse, replay)


def outcome_of(state: State) -> Outcome:
    """The outcome that `train` saved, on the CPU."""
    saved = Checkpoint(state, CHECKPOINT).load("cpu")
    if not saved:
        raise TrilemmaError("the training left no checkpoint: run the same command again")
    return Outcome(**saved["outcome"])


def _averaged(window: Window, step: int) -> Row:
    """Means over the window, of each metric over the steps that have it: a player need not step every time."""
    names = {name: None for metrics in window for name in metrics}
    row = {name: float(torch.stack([m[name] for m in window if name in m]).double().mean()) for name in names}
    return {"step": step, **row}


def _compare_unseen(job: Job, training: TrainState, row: Row, batch: Batch) -> None:
    """Add a discriminator's logit on held-out data, and the gap to that on training data."""
    rng = StepRng(job.seed, training.step, "unseen")
    batch, draws = _on_device(batch, job.method.draw("discriminator", batch, rng), training.nets)
    with masks_from(rng):
        _, metrics = job.method.loss("discriminator", training.nets, batch, draws, 1)  # at step 1 R1 is seldom computed
    row["held_out_real_logit"] = float(metrics["real_logit"])
    row["logit_gap"] = row["real_logit"] - row["held_out_real_logit"]


@torch.no_grad()
def _validate(outcome: Outcome, job: Job, training: TrainState, row: Row) -> None:
    """Add the validation metrics to the row; keep the weights if they are the best so far."""
    assert job.held_out is not None
    player, batch, draws, _, _ = job.held_out
    nets = _averaged_networks(job, training)
    loss, metrics = job.method.loss(player, nets, *_on_device(batch, draws, nets), training.step)
    row.update({f"held_out_{name}": float(value) for name, value in metrics.items()})
    if float(loss) < outcome.best_loss:
        outcome.best_loss, outcome.best_step, outcome.checks_without_gain = float(loss), training.step, 0
        outcome.weights = training.weights(job.method.players())
    else:
        outcome.checks_without_gain += 1


def _on_device(batch: Batch, draws: Draws, nets: Nets) -> tuple[Batch, Draws]:
    """On the networks' device, in their precision."""
    sample = next(next(iter(nets.values())).parameters())
    return batch.each(lambda part: like(part, sample)), {name: like(value, sample) for name, value in draws.items()}


def _averaged_networks(job: Job, training: TrainState) -> dict[str, nn.Module]:
    """Copies with averaged weights, in evaluation mode, to validate or sample with."""
    nets = copy.deepcopy(training.nets)
    for name, weights in training.weights(job.method.players()).items():
        nets[name].load_state_dict(weights)
        nets[name].eval()
    return nets


def write_trained(out: Draft, outcome: Outcome, job: Job) -> None:
    """Write weights.safetensors and history.parquet; note steps, how was drawn, facts of the data and the seed."""
    save_weights(out.path, outcome.weights)
    pq.write_table(pa.Table.from_pylist(same_keys(outcome.history)), out.path / "history.parquet")
    out.facts.update(data_facts(job.data), steps=outcome.steps, draws=drawing(job.draws))
    out.seeds.update(train=job.seed)


def drawing(device: DrawsOn) -> dict[str, Any]:
    """What the random numbers of a training depend on beside its seed."""
    return {"scheme": SCHEME, "block": BLOCK, "device": device}


def same_keys(history: list[Row]) -> list[dict[str, float | None]]:
    """Rows with the same columns, None where a value is missing, so that they make one table."""
    names = {name: None for row in history for name in row}
    return [{name: row.get(name) for name in names} for row in history]
