"""How a dataset's samples are measured: the same for generated and for real ones, for pictures and for points."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from pipeline.data.row_index import ShardedRows
from pipeline.data.shards import Pictures, read_pictures
from pipeline.errors import UserError
from pipeline.metrics.card import Card, MetricValue

Samples: TypeAlias = Pictures | ShardedRows
REAL_VS_REAL_FILE = "real_vs_real.json"  # of the stage `features`: [{card, value}], a row for each metric
REAL_VS_REAL_DRAWS = 5  # subsets of the training samples, measured as if they were generated


class Evaluator(ABC):
    """Extractors and references in memory."""

    def __init__(self, data: Path) -> None:
        self.train = self.open(data, "train")
        self.held_out = self.open(data, "held_out")

    def open(self, folder: Path, split: str) -> Samples:
        """As they are measured."""
        return read_pictures(folder, split)

    @abstractmethod
    def against_held_out(self, pictures: Samples) -> dict[Card, MetricValue]:
        """What real samples are wanted for that no network was trained on."""

    @abstractmethod
    def against_train(self, pictures: Samples) -> dict[Card, MetricValue]:
        """What is asked of the training samples, or of the law they are from."""

    @abstractmethod
    def features(self, images: np.ndarray) -> np.ndarray:
        """[n, d] through the extractor that the immune system examines."""

    @abstractmethod
    def compare(self, features: np.ndarray, real: np.ndarray) -> dict[str, float]:
        """The metrics that the immune system watches, by name, as `measure` computes them."""

    @abstractmethod
    def classes(self, pictures: Pictures) -> np.ndarray:
        """[n] int64: labels, or what stands in for them where there are none."""

    def measure(self, pictures: Samples) -> dict[Card, MetricValue]:
        return self.against_held_out(pictures) | self.against_train(pictures)

    def real_vs_real(self, n: int) -> dict[Card, float]:
        """Every metric with n real samples in place of generated ones, and never a sample against itself.

        Metrics against the held-out split: mean over subsets of the training split. All others: held-out samples.
        Empty if fewer than n samples are held out.
        """
        if n > len(self.held_out):
            return {}
        rng = np.random.default_rng(0)
        subsets = [rng.permutation(len(self.train))[:n] for _ in range(REAL_VS_REAL_DRAWS)]
        draws = [self.against_held_out(self.train.take(subset)) for subset in subsets]
        means = {card: float(np.mean([draw[card].value for draw in draws])) for card in draws[0]}
        return means | {card: m.value for card, m in self.against_train(self.held_out.take(slice(n))).items()}


def write_real_vs_real(values: Mapping[Card, float], features: Path) -> None:
    rows = [{"card": asdict(card), "value": value} for card, value in values.items()]
    (features / REAL_VS_REAL_FILE).write_text(json.dumps(rows, indent=1) + "\n")


def read_real_vs_real(features: Path) -> dict[Card, float]:
    rows = json.loads((features / REAL_VS_REAL_FILE).read_text())
    return {Card.from_json(row["card"]): row["value"] for row in rows}


def result_rows(
    by_set: Sequence[Mapping[Card, MetricValue]], real_vs_real: Mapping[Card, float]
) -> list[dict[str, Any]]:
    """ShardedRows of metrics.json, one per card: values of one network, in the order of its sets of samples."""
    for card in by_set[0]:
        if real_vs_real and card not in real_vs_real:
            known = sorted({card.n_generated for card in real_vs_real})
            raise UserError(
                f"{card.metric} ({card}) has no real-vs-real value: the stage `features` computed them for "
                f"n = {known}. Set evaluate.images of the dataset to the samples per set and run `features` again"
            )
    doubts = () if real_vs_real else ("no real-vs-real value: fewer samples are held out than are measured",)
    return [
        {
            "metric": card.metric,
            "card": asdict(card) | {"id": card.id, "text": str(card)},
            "values": [measured[card].value for measured in by_set],
            "real_vs_real": real_vs_real.get(card),
            "warnings": sorted({*doubts, *(warning for measured in by_set for warning in measured[card].warnings)}),
        }
        for card in by_set[0]
    ]
