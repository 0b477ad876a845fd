"""What `stack` and `appraise` share: the members of a stack, and the training of those that fit into one job."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from methods.core.training.stacked import Model, StackState, Tensors, groups, train_stack
from methods.core.types import Batch, DataSpec
from pipeline.config.build import Block, build_method
from pipeline.context import State, Watch, Worker
from pipeline.errors import ConfigError, Interrupted, TrilemmaError, naming
from pipeline.training.loop import RECORD_EVERY, Checkpoint, Window, check_at_least_one

HIDDEN = {"float32": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class StackTrain:
    """The `train` block of a stack: every member is trained with each of the seeds first_seed, first_seed + 1, ..."""

    steps: int = 2000
    batch: int = 512  # images per step of each model
    seeds: int = 1
    first_seed: int = 0  # recipes are chosen with other seeds than those they are reported with
    precision: Literal["float32", "bf16"] = "float32"  # bf16: of hidden layers; weights stay float32

    def __post_init__(self) -> None:
        check_at_least_one(steps=self.steps, batch=self.batch, seeds=self.seeds)
        if self.first_seed < 0:
            raise ValueError(f"first_seed: {self.first_seed} came, at least 0 was wanted")

    @property
    def training_seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)


class Trainee(NamedTuple):
    """One model of a stack."""

    member: str
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.member}/{self.seed}"


def members_of(method: str, model: Block, members: dict[str, Block]) -> dict[str, Any]:
    """By name, each with the common fields and its own; one line for a field that does not exist or fit."""
    if not members:
        raise ConfigError("members: none came, at least one was wanted: NAME: {fields}")
    made = {}
    for name, fields in members.items():
        with naming(f"members.{name}"):
            made[name] = build_method(method, model | fields)
    if not hasattr(next(iter(made.values())), "terms"):
        raise ConfigError(f"{method} cannot be stacked: its loss is no weighted sum of terms; give its entries as runs")
    return made


@dataclass(frozen=True)
class StackJob:
    """Models of one structure, trained as one wherever there is room."""

    trainees: tuple[Trainee, ...]
    models: tuple[Model, ...]
    data: DataSpec
    batches: Callable[[int, int], Batch]
    train: StackTrain
    state: State
    watch: Watch
    before: int  # steps of the jobs before this one
    total: int  # steps of all jobs


class Trained(NamedTuple):
    """By trainee."""

    weights: dict[Trainee, dict[str, Tensors]]
    history: list[dict[str, Any]]  # a row per trainee and record


def jobs_of(
    members: dict[str, Any], data: DataSpec, batches: Callable[[int, int], Batch], train: StackTrain, state: State,
    watch: Watch,
) -> list[StackJob]:  # fmt: skip
    """One per structure."""
    trainees = [Trainee(name, seed) for name in members for seed in train.training_seeds]
    alike = groups([members[trainee.member] for trainee in trainees])
    total = len(alike) * train.steps
    made = []
    for before, numbers in enumerate(alike):
        chosen = tuple(trainees[number] for number in numbers)
        models = tuple(Model(members[trainee.member], trainee.seed) for trainee in chosen)
        job = StackJob(chosen, models, data, batches, train, state, watch, before * train.steps, total)
        made.append(job)
    return made


def train_job(worker: Worker, job: StackJob) -> Trained:
    """To the end, or on from the last checkpoint."""
    training = StackState.fresh(job.models, job.data, worker.device)
    checkpoint = Checkpoint(job.state, f"stack-{job.before}.pt")
    saved = checkpoint.resume(training, worker.device)
    history, window = saved.get("history", []), saved.get("window", [])
    options = {"batch": job.train.batch, "steps": job.train.steps, "hidden": HIDDEN[job.train.precision]}
    options["compiled"] = worker.device.type == "cuda"
    with job.watch.opened() as view:
        for terms in train_stack(job.models, training, job.batches, **options):
            window.append(terms)
            is_last = training.step == job.train.steps
            if training.step % RECORD_EVERY == 0 or is_last:
                history += _rows(job, window, training.step)
                window = []
                view.progress(job.before + training.step, job.total)
            must_stop = worker.must_stop() and not is_last
            if must_stop or is_last or (not window and checkpoint.is_due()):
                checkpoint.save(training, history=history, window=window)
            if must_stop:
                raise Interrupted(f"step {job.before + training.step} of {job.total}")
    weights = training.weights(job.models[0].method.players())
    return Trained(dict(zip(job.trainees, _on_cpu(weights))), history)


def _rows(job: StackJob, window: Window, step: int) -> list[dict[str, Any]]:
    """Means over the window, of each term over the steps that have it."""
    names = {name: None for terms in window for name in terms}
    means = {name: torch.stack([t[name] for t in window if name in t]).double().mean(0).tolist() for name in names}
    rows = []
    for number, trainee in enumerate(job.trainees):
        values = {name: means[name][number] for name in names}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise TrilemmaError(
                f"{trainee.member}, seed {trainee.seed}: {', '.join(bad)} is no longer finite between steps "
                f"{step - len(window)} and {step}: lower its learning rates; the same command replays it exactly"
            )
        rows.append({"member": trainee.member, "seed": trainee.seed, "step": step, **values})
    return rows


def _on_cpu(weights: list[dict[str, Tensors]]) -> list[dict[str, Tensors]]:
    def moved(values: dict[str, Tensor]) -> Tensors:
        return {key: value.cpu() for key, value in values.items()}

    return [{net: moved(values) for net, values in found.items()} for found in weights]
