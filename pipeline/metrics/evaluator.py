"""How a dataset's samples are measured: the same for generated and for real ones, for pictures and for points."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pipeline.data.row_index import ShardedRows
from pipeline.data.shards import Pictures, read_pictures
from pipeline.errors import UserError
from pipeline.metrics.card import Card, MetricValue

Samples: TypeAlias = Pictures | ShardedRows
FLOOR_DRAWS = 5  # subsets of the training samples that stand in for generated ones


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

    def floors(self, n: int) -> dict[Card, float]:
        """Real against real at the same n: training against held-out samples, and the other way, never with itself."""
        if n > len(self.held_out):
            raise UserError(f"evaluate.images: {n} came, but only {len(self.held_out)} are held out for the floor")
        rng = np.random.default_rng(0)
        subsets = [rng.permutation(len(self.train))[:n] for _ in range(FLOOR_DRAWS)]
        draws = [self.against_held_out(self.train.rows(subset)) for subset in subsets]
        floors = {card: float(np.mean([draw[card].value for draw in draws])) for card in draws[0]}
        return floors | {card: m.value for card, m in self.against_train(self.held_out.rows(slice(n))).items()}
