"""evaluate-stack: sample and measure every member of a stack, each training seed, several times."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from methods.core.devices import current_device
from methods.core.numbers import Count
from methods.core.rng import StepRng
from pipeline.config.build import Block, build, build_method
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.shards import Pictures
from pipeline.errors import TrilemmaError
from pipeline.metrics.card import METRICS_FILE, Card, MetricValue
from pipeline.metrics.evaluator import read_real_vs_real, result_rows
from pipeline.sampling.counting import as_stored, counting
from pipeline.stages.evaluate import Bench, evaluator_at
from pipeline.training.networks import data_spec, load_networks
from pipeline.training.stacked import StackedModel, members_of

MAX_KEPT_SAMPLES = 10_000  # of each member, for plots of their density
SAMPLES_FILE = "samples.npy"  # [members, kept samples, *shape], of the first training seed


@dataclass(frozen=True)
class Config:
    method: str
    model: Block
    members: dict[str, Block]
    sample: Block
    images: Count  # per set
    sample_seeds: Count  # sets per trained model


@dataclass(frozen=True)
class Item:
    """One trained model to sample and measure, in any process."""

    bench: Bench
    weights: Path
    facts: dict[str, Any]  # of the stack
    model: Block
    config: Config


class Measured(NamedTuple):
    by_set: list[dict[Card, MetricValue]]
    nfe: float
    kept: np.ndarray  # samples of the first set


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    """Write metrics.json, by member and training seed, and SAMPLES_FILE."""
    members_of(config.method, config.model, config.members)
    stack, seeds = inputs["stack"], inputs["stack"].manifest.seeds["train"]
    models = [StackedModel(name, seed) for name in config.members for seed in seeds]
    bench = Bench.of(inputs["prepare"], inputs["features"])
    items = [
        Item(bench, stack.path / m.folder, stack.manifest.facts, config.model | config.members[m.member], config)
        for m in models
    ]
    real_vs_real = read_real_vs_real(inputs["features"].path)
    sets = [f"samples-{number}" for number in range(config.sample_seeds)]
    members: dict[str, list[dict[str, Any]]] = {name: [] for name in config.members}  # an entry per training seed
    kept: list[np.ndarray] = []
    for done, (model, measured) in enumerate(zip(models, context.launch.map(measure, items)), 1):
        rows = result_rows(measured.by_set, real_vs_real)
        members[model.member].append({"sets": sets, "counts": {"nfe": measured.nfe}, "metrics": rows})
        if model.seed == seeds[0]:
            kept.append(measured.kept)
        context.watch.progress(done, len(items))
    np.save(out.path / SAMPLES_FILE, np.stack(kept))
    (out.path / METRICS_FILE).write_text(json.dumps(members, indent=1) + "\n")
    out.facts.update(images=config.images, steps=stack.manifest.facts["steps"], batch=stack.manifest.facts["batch"])
    out.seeds.update(train=seeds, sample=list(range(config.sample_seeds)))
    context.watch.results(
        {
            f"{rows[0]['metric']} {name}": float(np.mean([row["values"] for row in rows]))
            for name, contents in members.items()
            for rows in zip(*(content["metrics"] for content in contents))
        }
    )


def measure(item: Item) -> Measured:
    """All sets of one trained model."""
    config, device, data = item.config, current_device(), data_spec(item.facts)
    evaluator = evaluator_at(item.bench)
    method = build_method(config.method, item.model)
    sampling = build(method.Sampling, config.sample, f"{config.method}: sample")
    nets = load_networks(item.weights, method, data, device)
    by_set: list[dict[Card, MetricValue]] = []
    kept = np.empty(0)
    with counting({"nfe": list(nets.values())}) as rows:
        for number in range(config.sample_seeds):
            points = method.sample(nets, sampling, None, SetRng(config.images, number, device)).cpu()
            if not points.isfinite().all():
                raise TrilemmaError(f"{item.weights}: sampling gave NaN or infinity: lower its learning rates")
            images = as_stored(points, data)
            kept = images[:MAX_KEPT_SAMPLES] if number == 0 else kept
            labels, seeds = np.full(len(images), -1, np.int64), np.arange(len(images), dtype=np.int64)
            by_set.append(evaluator.measure(Pictures(images, labels, seeds)))
    return Measured(by_set, rows["nfe"] / (config.images * config.sample_seeds), kept)


class SetRng:
    """One random generator for a whole set: for points, one per image would cost more than the networks."""

    def __init__(self, images: int, number: int, device: torch.device) -> None:
        self.images, self.device, self.rng = images, device, StepRng(number, 0, "appraise")

    def normal(self, *shape: int) -> Tensor:
        return self.rng.normal(self.images, *shape).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        return self.rng.uniform(self.images, *shape).to(self.device)
