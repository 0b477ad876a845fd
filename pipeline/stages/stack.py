"""stack: train many small models at once: every member of a stack with every training seed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from methods.core.types import Batch
from pipeline.config.build import Block
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.loader import Epochs
from pipeline.data.shards import read_pictures
from pipeline.training.loop import drawing, same_keys
from pipeline.training.networks import data_facts, data_spec, save_weights
from pipeline.training.stacked import StackTrain, jobs_of, members_of, train_job


@dataclass(frozen=True)
class Config:
    method: str
    model: Block  # fields that all members share
    members: dict[str, Block]  # the other fields, by member
    train: StackTrain


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    """Write a folder of weights per member and training seed, and history.parquet."""
    members = members_of(config.method, config.model, config.members)
    data = data_spec(inputs["data"].manifest.facts)
    pictures = read_pictures(inputs["data"].path, "train")
    batches = SeededEpochs(pictures.images, pictures.labels if data.classes else None, config.train.batch)
    history = []
    jobs = jobs_of(members, data, batches, config.train, context)
    for trained in context.launch.fit_each(train_job, jobs):
        history += trained.history
        for stacked, weights in trained.weights.items():
            folder = out.path / stacked.folder
            folder.mkdir(parents=True)
            save_weights(folder, weights)
    pq.write_table(pa.Table.from_pylist(same_keys(history)), out.path / "history.parquet")
    out.facts.update(steps=config.train.steps, batch=config.train.batch, draws=drawing(config.train.draws))
    out.facts.update(data_facts(data))
    out.seeds.update(train=list(config.train.training_seeds))


@dataclass(frozen=True)
class SeededEpochs:
    """The batch of a step for any training seed, equal to that of `pretrain`."""

    images: np.ndarray
    labels: np.ndarray | None
    batch: int

    def __call__(self, seed: int, step: int) -> Batch:
        return Epochs(self.images, self.labels, self.batch, seed)(step)
