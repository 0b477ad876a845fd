"""pretrain: train a generator on prepared data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from methods.core.numbers import Count, Fraction, Positive, Seed
from methods.core.pixels import to_uint8
from methods.core.posthoc import LONGEST
from methods.core.rng import TILE, rows_of_worker, sample_tiles
from methods.core.training.derived import TEACHER, check_roles
from methods.core.types import DataSpec, Generator, Nets
from pipeline.config.build import Block, build_method
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.captions import Captions
from pipeline.data.loader import Prepared, checked
from pipeline.data.row_index import open_rows
from pipeline.errors import UserError
from pipeline.training.averages import snapshot_steps, write_averages
from pipeline.training.latents import check_encoder
from pipeline.training.loop import DrawsOn, Job, Precision, outcome_of, train, write_trained
from pipeline.training.networks import data_spec, is_captioned, load_run


@dataclass(frozen=True)
class Train:
    """The `train` block of a run."""

    steps: Count = 2000
    batch: Count = 128  # images per step, over all workers
    seed: Seed = 0
    precision: Precision = "float32"
    draws: DrawsOn = "cpu"  # whose generators draw noise and dropout; cuda: faster on a GPU, other numbers
    flip: bool = False  # mirror each image with probability 1/2 (EDM's augmentation does so already)
    collapse: Fraction | None = 0.02  # adversarial methods: stop below this share of the real images' spread
    ema_lengths: tuple[Positive, ...] = ()  # averages to store, by relative length, so that `sample.ema` can choose any
    ema_snapshots: Count = 32  # times in the training at which they are stored

    def __post_init__(self) -> None:
        for length in self.ema_lengths:
            if length > LONGEST:
                raise ValueError(f"ema_lengths: {length} came, relative lengths of at most {LONGEST} were wanted")
        rows_of_worker(self.batch, 0, 1)


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    train: Train
    roles: list[str] = field(default_factory=list)  # of the run in the input "from", if there is one


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    method, block = build_method(config.method, config.model), config.train
    data = data_spec(inputs["data"].manifest.facts)
    check_encoder(inputs)
    if block.flip and (len(data.shape) != 3 or data.latents):
        what = "are latents" if data.latents else f"have shape {list(data.shape)}"
        raise UserError(f"train.flip: these data {what}: leave it out")

    captions = Captions.of(inputs["data"].path) if is_captioned(method) else None

    def batches(split: str) -> Prepared:
        rows, is_text = open_rows(inputs["data"].path, split), captions is not None
        return Prepared(rows, data.classes > 0, block.batch, block.seed, block.flip, is_text)

    check_roles(method, config.method, config.roles)
    train_batches = checked(batches("train"), context.launch.workers)
    job = Job(method, data, train_batches, block.steps, block.batch, block.seed, block.precision, block.draws)
    if block.ema_lengths:
        if all(player.ema is None for player in method.players()):
            raise UserError(f"train.ema_lengths: {config.method} keeps no average with these fields: leave it out")
        steps = snapshot_steps(block.steps, block.ema_snapshots)
        job = replace(job, ema_lengths=block.ema_lengths, ema_steps=steps)
    if any(player.name == "discriminator" for player in method.players()):
        job = replace(job, unseen=batches("held_out"), collapse=block.collapse)
    if config.roles:
        job = replace(job, parent=load_run(inputs["from"], data), roles=config.roles)
    if len(data.shape) == 3 and data.latents is None:
        job = replace(job, preview=Preview(method, data, captions))
    context.launch.fit(train, job, context.state, context.watch)
    outcome = outcome_of(context.state)
    outcome.weights.pop(TEACHER, None)  # it is stored already
    write_trained(out, outcome, job)
    if job.ema_lengths:
        write_averages(out, context.state, job.ema_lengths, job.ema_steps, block.batch)


@dataclass(frozen=True)
class Preview:
    """A tile of samples with the method's default sampling, to log: uint8 [TILE, C, H, W]."""

    method: Generator
    data: DataSpec
    captions: Captions | None = None  # of which the first are used, in place of classes

    @torch.no_grad()
    def __call__(self, nets: Nets) -> np.ndarray:
        classes, captions = self.data.classes, self.captions

        def label_of(seed: int) -> int | Sequence[int]:
            return seed % classes if captions is None else captions.row(seed)[1:]

        tiles = sample_tiles(
            lambda labels, rng: self.method.sample(nets, self.method.Sampling(), labels, rng),
            range(TILE),
            label_of if classes or captions else None,
            next(next(iter(nets.values())).parameters()).device,
        )
        return to_uint8(torch.cat(list(tiles))).cpu().numpy()
