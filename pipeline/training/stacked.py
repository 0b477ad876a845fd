"""The members of a stack, and the training of those with equal structure as one job.

A stack holds the weights of many small models as one tensor with a leading dimension (torch's `stack_module_state`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from methods.core.numbers import Count, Seed
from methods.core.rng import rows_of_worker
from methods.core.training.stacked import Model, StackState, Tensors, groups, train_stack
from methods.core.types import Batch, DataSpec
from pipeline.config.build import Block, build_method
from pipeline.context import RunContext, State, Watch, Worker
from pipeline.errors import ConfigError, Interrupted, TrilemmaError, naming
from pipeline.training.loop import RECORD_EVERY, Checkpoint, DrawsOn, Window, device_of

SeededBatches = Callable[[int, int], Batch]  # by training seed and step
HIDDEN_DTYPES = {"float32": None, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class StackTrain:
    """The `train` block of a stack: each member is trained with the seeds first_seed, first_seed + 1, ..."""

    steps: Count = 2000
    batch: Count = 512  # images per step of each model
    seeds: Count = 1
    first_seed: Seed = 0  # settings are chosen with other seeds than those they are reported with
    precision: Literal["float32", "bf16"] = "float32"  # bf16: in hidden layers; weights stay float32
    draws: DrawsOn = "cpu"  # whose generators draw noise; cuda: faster on a GPU, other numbers

    def __post_init__(self) -> None:
        rows_of_worker(self.batch, 0, 1)

    @property
    def training_seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)


class StackedModel(NamedTuple):
    """A member trained with one seed."""

    member: str
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.member}/{self.seed}"


def members_of(method: str, model: Block, members: dict[str, Block]) -> dict[str, Any]:
    """Methods by name, each with the common fields and its own; ConfigError for a field that does not fit."""
    if not members:
        raise ConfigError("members: none came, at least one was wanted: NAME: {fields}")
    methods = {}
    for name, fields in members.items():
        with naming(f"members.{name}"):
            methods[name] = build_method(method, model | fields)
    if not hasattr(next(iter(methods.values())), "terms"):
        raise ConfigError(f"{method} cannot be stacked: its loss is no weighted sum of terms; give its entries as runs")
    return methods


@dataclass(frozen=True)
class StackJob:
    """Models of one structure, trained as one."""

    members: tuple[StackedModel, ...]
    models: tuple[Model, ...]
    data: DataSpec
    batches: SeededBatches
    train: StackTrain
    state: State
    watch: Watch
    before: int  # steps of the jobs before this one
    total: int  # steps of all jobs


class Trained(NamedTuple):
    """The result of a job."""

    weights: dict[StackedModel, dict[str, Tensors]]
    history: list[dict[str, Any]]  # a row per model and record


def jobs_of(
    members: dict[str, Any], data: DataSpec, batches: SeededBatches, train: StackTrain, context: RunContext
) -> list[StackJob]:
    """One job per structure. members: methods by name."""
    stack = [StackedModel(name, seed) for name in members for seed in train.training_seeds]
    by_structure = groups([members[stacked.member] for stacked in stack])
    total, jobs = len(by_structure) * train.steps, []
    for position, indices in enumerate(by_structure):
        chosen = tuple(stack[index] for index in indices)
        models = tuple(Model(members[stacked.member], stacked.seed) for stacked in chosen)
        before = position * train.steps
        jobs.append(StackJob(chosen, models, data, batches, train, context.state, context.watch, before, total))
    return jobs


def train_job(worker: Worker, job: StackJob) -> Trained:
    """Train to the end, from the last checkpoint if there is one; `Interrupted` when the worker must stop."""
    training = StackState.fresh(job.models, job.data, worker.device)
    checkpoint = Checkpoint(job.state, f"stack-{job.before}.pt")
    saved = checkpoint.resume(training, worker.device)
    history, window = saved.get("history", []), saved.get("window", [])
    options: dict[str, Any] = {
        "draws_on": device_of(job.train.draws, worker),
        "batch": job.train.batch,
        "steps": job.train.steps,
        "hidden": HIDDEN_DTYPES[job.train.precision],
    }
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
    on_cpu = [{net: {k: v.cpu() for k, v in values.items()} for net, values in nets.items()} for nets in weights]
    return Trained(dict(zip(job.members, on_cpu)), history)


def _rows(job: StackJob, window: Window, step: int) -> list[dict[str, Any]]:
    """Means over the window, of each term over the steps that have it."""
    names = {name: None for terms in window for name in terms}
    means = {name: torch.stack([t[name] for t in window if name in t]).double().mean(0).tolist() for name in names}
    rows = []
    for index, stacked in enumerate(job.members):
        values = {name: means[name][index] for name in names}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise TrilemmaError(
                f"{stacked.member}, seed {stacked.seed}: {', '.join(bad)} is no longer finite between steps "
                f"{step - len(window)} and {step}: lower its learning rates; the same command replays it exactly"
            )
        rows.append({"member": stacked.member, "seed": stacked.seed, "step": step, **values})
    return rows
