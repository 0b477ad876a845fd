"""evaluate: metrics of every set of samples, each value with its card and the real-vs-real value."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.metrics.card import METRICS_FILE, Card, MetricValue
from pipeline.metrics.evaluate import evaluator_of
from pipeline.metrics.evaluator import Evaluator, read_real_vs_real, result_rows


@dataclass(frozen=True)
class Config: ...


@dataclass(frozen=True)
class Bench:
    """What an evaluator is built from. Digests tell apart folders that were replaced."""

    data: Path
    features: Path
    digests: tuple[str, str]

    @classmethod
    def of(cls, data: Artifact, features: Artifact) -> "Bench":
        return cls(data.path, features.path, (data.digest, features.digest))


@dataclass(frozen=True)
class Item:
    """One set to measure, in any process."""

    bench: Bench
    samples: Path
    split: str


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    """Write metrics.json. Measured sets are kept in the state, so that a killed evaluation resumes."""
    data, features, samples = (inputs[role] for role in ("prepare", "features", "samples"))
    bench = Bench.of(data, features)
    sets = list(samples.manifest.seeds)
    measured = {name: _parsed(context.state.load(f"{name}.json")) for name in sets}
    missing = [name for name in sets if not measured[name]]
    results = context.launch.map(measure, [Item(bench, samples.path, name) for name in missing])
    for done, (name, values) in enumerate(zip(missing, results), len(sets) - len(missing) + 1):
        measured[name] = values
        text = json.dumps([[asdict(card), *value] for card, value in values.items()])
        context.state.save(f"{name}.json", text.encode())
        context.watch.progress(done, len(sets))
    encoder = samples.manifest.facts.get("vae_sha256")
    rows = result_rows([measured[name] for name in sets], read_real_vs_real(features.path), encoder)
    counts = {name: samples.manifest.facts[name] for name in ("nfe", "guide_calls")}
    content = {"sets": sets, "counts": counts, "metrics": rows}
    (out.path / METRICS_FILE).write_text(json.dumps(content, indent=1) + "\n")
    out.facts.update(images=samples.manifest.facts["images"])
    context.watch.results(
        {f"{row['metric']} {row['card']['extractor']}": float(np.mean(row["values"])) for row in rows} | counts
    )


def _parsed(text: bytes | None) -> dict[Card, MetricValue]:
    """The saved values of a set; empty if there are none."""
    rows = json.loads(text or b"[]")
    return {Card.from_json(card): MetricValue(value, tuple(warnings), std) for card, value, warnings, std in rows}


def measure(item: Item) -> dict[Card, MetricValue]:
    evaluator = evaluator_at(item.bench)
    return evaluator.measure(evaluator.open(item.samples, item.split))


@lru_cache(maxsize=1)
def evaluator_at(bench: Bench) -> Evaluator:
    return evaluator_of(bench.data, bench.features)
