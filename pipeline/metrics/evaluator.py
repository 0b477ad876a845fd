"""How samples are measured: in the same way for generated and real ones, for pictures and for points."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from pipeline.data.row_index import ShardedRows
from pipeline.data.shards import Pictures, read_pictures
from pipeline.errors import UserError
from pipeline.metrics.card import Card, MetricValue

Samples: TypeAlias = Pictures | ShardedRows
REAL_VS_REAL_FILE = "real_vs_real.json"  # in the artifact of `features`: [{card, value}, ...]
REAL_VS_REAL_DRAWS = 5  # subsets of the training samples that take the place of generated ones


class Evaluator(ABC):
    """Extractors and references of one dataset, in memory."""

    def __init__(self, data: Path) -> None:
        self.train = self.open(data, "train")
        self.held_out = self.open(data, "held_out")

    def open(self, folder: Path, split: str) -> Samples:
        """Samples of one split."""
        return read_pictures(folder, split)

    @abstractmethod
    def against_held_out(self, pictures: Samples) -> dict[Card, MetricValue]:
        """Metrics against the held-out split."""

    @abstractmethod
    def against_train(self, pictures: Samples) -> dict[Card, MetricValue]:
        """Metrics against the training split, or against the known distribution."""

    @abstractmethod
    def features(self, images: np.ndarray) -> np.ndarray:
        """[n, d] of the extractor that the sensitivity check uses."""

    @abstractmethod
    def compare(self, features: np.ndarray, real: np.ndarray) -> dict[str, float]:
        """Values of the sensitivity check's metrics by name, computed as in `measure`."""

    @abstractmethod
    def classes(self, pictures: Pictures) -> np.ndarray:
        """[n] int64: labels; cluster numbers where there are none."""

    def measure(self, pictures: Samples) -> dict[Card, MetricValue]:
        return self.against_held_out(pictures) | self.against_train(pictures)

    def real_vs_real(self, n: int) -> dict[Card, float]:
        """Every metric with n real samples in place of generated ones; no sample is compared with itself.

        Metrics against the held-out split are means over subsets of the training split; all others use held-out
        samples. Empty if fewer than n samples are held out.
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
    by_set: Sequence[Mapping[Card, MetricValue]], real_vs_real: Mapping[Card, float], encoder: str | None = None
) -> list[dict[str, Any]]:
    """Rows of metrics.json, one per card; by_set: values of each set of samples of one network.

    encoder: SHA-256 of the weights of the autoencoder that decoded the samples, for their cards.
    """
    settings = () if encoder is None else (("vae_sha256", encoder),)
    written = {card: replace(card, settings=(*card.settings, *settings)) for card in by_set[0]}
    for card in by_set[0]:
        if real_vs_real and card not in real_vs_real:
            known = sorted({card.n_generated for card in real_vs_real})
            raise UserError(
                f"{card.metric} ({card}) has no real-vs-real value: the stage `features` computed them for "
                f"n = {known}. Set evaluate.images of the dataset to the samples per set and run `features` again"
            )
    missing = () if real_vs_real else ("no real-vs-real value: fewer samples are held out than are measured",)
    return [
        {
            "metric": card.metric,
            "card": asdict(own) | {"id": own.id, "text": str(own)},
            "values": [measured[card].value for measured in by_set],
            "real_vs_real": real_vs_real.get(card),
            "warnings": sorted({*missing, *(warning for measured in by_set for warning in measured[card].warnings)}),
        }
        for card, own in written.items()
    ]
