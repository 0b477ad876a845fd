"""evaluate: metrics of every sampled set, each value with its card and the real-vs-real value."""

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
    """Where the judge's things lie, and what they are: a folder may be made anew."""

    data: Path
    features: Path
    digests: tuple[str, str]


@dataclass(frozen=True)
class Item:
    """One set to measure, anywhere."""

    bench: Bench
    samples: Path
    split: str


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    data, features, samples = (inputs[role] for role in ("prepare", "features", "samples"))
    bench = Bench(data.path, features.path, (data.digest, features.digest))
    sets = list(samples.manifest.seeds)
    saved = {split: _saved(context.state.load(f"{split}.json")) for split in sets}
    missing = [Item(bench, samples.path, split) for split in sets if not saved[split]]
    fresh = context.launch.map(measure, missing)
    by_set: list[dict[Card, MetricValue]] = []
    for split in sets:
        if not saved[split]:
            saved[split] = next(fresh)
            context.state.save(f"{split}.json", _to_save(saved[split]))
        by_set.append(saved[split])
        context.watch.progress(len(by_set), len(sets))
    rows = result_rows(by_set, read_real_vs_real(features.path))
    content = {
        "sets": sets,
        "counts": {name: samples.manifest.facts[name] for name in ("nfe", "guide_calls")},
        "metrics": rows,
    }
    (out.path / METRICS_FILE).write_text(json.dumps(content, indent=1) + "\n")
    out.facts.update(images=samples.manifest.facts["images"])
    context.watch.results(
        {f"{row['metric']} {row['card']['extractor']}": float(np.mean(row["values"])) for row in rows}
        | {name: content["counts"][name] for name in content["counts"]}
    )


def _to_save(measured: dict[Card, MetricValue]) -> bytes:
    return json.dumps([[asdict(card), *value] for card, value in measured.items()]).encode()


def _saved(text: bytes | None) -> dict[Card, MetricValue]:
    """Empty if this set has not been measured."""
    rows = json.loads(text or b"[]")
    return {Card.from_json(card): MetricValue(value, tuple(told), spread) for card, value, told, spread in rows}


def measure(item: Item) -> dict[Card, MetricValue]:
    judge = judge_at(item.bench)
    return judge.measure(judge.open(item.samples, item.split))


@lru_cache(maxsize=1)
def judge_at(bench: Bench) -> Evaluator:
    return evaluator_of(bench.data, bench.features)
