"""appraise: every member of a stack, each training seed, sampled and measured several times."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from methods.core.devices import current_device
from methods.core.rng import StepRng
from pipeline.config.build import Block, build, build_method
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.shards import Pictures
from pipeline.errors import TrilemmaError
from pipeline.metrics.card import METRICS_FILE, Card, MetricValue
from pipeline.metrics.evaluate import evaluator_of
from pipeline.metrics.evaluator import Evaluator, read_real_vs_real, result_rows
from pipeline.sampling.counting import counting, stored
from pipeline.training.networks import data_spec, load_networks
from pipeline.training.stacked import Trainee, members_of

SHOWN = 10_000  # samples of each member that are kept, for pictures of their density
SAMPLES_FILE = "samples.npy"  # [members, SHOWN, *shape], of the first training seed


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    members: dict[str, Block]
    sample: Block
    images: int  # per set
    sample_seeds: int  # sets per trained model


@dataclass(frozen=True)
class Item:
    """One trained model, to sample and measure anywhere."""

    data: Path
    features: Path
    weights: Path
    facts: str  # JSON, of the stack
    method: str
    model: str  # JSON
    sample: str  # JSON
    images: int
    sample_seeds: int


class Appraisal(NamedTuple):
    by_set: list[dict[Card, MetricValue]]
    nfe: float
    shown: np.ndarray


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    members_of(config.method, config.model, config.members)
    stack = inputs["stack"]
    trainees = [Trainee(name, seed) for name in config.members for seed in stack.manifest.seeds["train"]]
    items = [_item(inputs, config, trainee) for trainee in trainees]
    found: dict[Trainee, Appraisal] = {}
    for trainee, appraisal in zip(trainees, context.launch.map(appraise, items)):
        found[trainee] = appraisal
        context.watch.progress(len(found), len(items))
    real_vs_real = read_real_vs_real(inputs["features"].path)
    members: dict[str, list[dict[str, Any]]] = {name: [] for name in config.members}  # an entry per training seed
    for trainee, appraisal in found.items():
        rows = result_rows(appraisal.by_set, real_vs_real)
        sets = [f"samples-{number}" for number in range(config.sample_seeds)]
        members[trainee.member].append({"sets": sets, "counts": {"nfe": appraisal.nfe}, "metrics": rows})
    first = stack.manifest.seeds["train"][0]
    np.save(out.path / SAMPLES_FILE, np.stack([found[Trainee(name, first)].shown for name in config.members]))
    (out.path / METRICS_FILE).write_text(json.dumps(members, indent=1) + "\n")
    out.facts.update(images=config.images, steps=stack.manifest.facts["steps"], batch=stack.manifest.facts["batch"])
    out.seeds.update(train=stack.manifest.seeds["train"], sample=list(range(config.sample_seeds)))
    context.watch.results(
        {
            f"{rows[0]['metric']} {name}": float(np.mean([row["values"] for row in rows]))
            for name, contents in members.items()
            for rows in zip(*(content["metrics"] for content in contents))
        }
    )


def appraise(item: Item) -> Appraisal:
    """All sets of one trained model."""
    judge, data, device = judge_at(item.data, item.features), data_spec(json.loads(item.facts)), current_device()
    method = build_method(item.method, json.loads(item.model))
    sampling = build(method.Sampling, json.loads(item.sample), f"{item.method}: sample")
    nets = load_networks(item.weights, method, data, device)
    by_set: list[dict[Card, MetricValue]] = []
    shown = np.empty(0)
    with counting({"nfe": list(nets.values())}) as rows:
        for number in range(item.sample_seeds):
            points = method.sample(nets, sampling, None, SetRng(item.images, number, device)).cpu()
            if not points.isfinite().all():
                raise TrilemmaError(f"{item.weights}: sampling gave NaN or infinity: lower its learning rates")
            images = stored(points, data)
            shown = images[:SHOWN] if number == 0 else shown
            label, seeds = np.full(len(images), -1, np.int64), np.arange(len(images), dtype=np.int64)
            by_set.append(judge.measure(Pictures(images, label, seeds)))
    return Appraisal(by_set, rows["nfe"] / (item.images * item.sample_seeds), shown)


class SetRng:
    """One generator for a whole set: for points, one per image would cost more than the networks."""

    def __init__(self, images: int, number: int, device: torch.device) -> None:
        self.images, self.device, self.rng = images, device, StepRng(number, 0, "appraise")

    def normal(self, *shape: int) -> Tensor:
        return self.rng.normal(self.images, *shape).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        return self.rng.uniform(self.images, *shape).to(self.device)


def _item(inputs: Mapping[str, Artifact], config: Config, trainee: Trainee) -> Item:
    model = json.dumps(config.model | config.members[trainee.member])
    weights, facts = inputs["stack"].path / trainee.folder, json.dumps(inputs["stack"].manifest.facts)
    sets = config.images, config.sample_seeds
    folders = inputs["prepare"].path, inputs["features"].path, weights
    return Item(*folders, facts, config.method, model, json.dumps(config.sample), *sets)


@lru_cache(maxsize=1)
def judge_at(data: Path, features: Path) -> Evaluator:
    return evaluator_of(data, features)
