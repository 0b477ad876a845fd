"""Evaluator of points from an exactly known mixture, in its raw coordinates."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.artifacts import facts_of
from pipeline.data.shards import Pictures
from pipeline.errors import UserError
from pipeline.metrics.card import NEIGHBOURS_OF, Card, MetricValue, card_of
from pipeline.metrics.evaluator import Evaluator, Samples
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.mixture_metrics import (
    COORDINATES,
    FAIR_SHARE,
    RADIUS,
    MixtureDistribution,
    energy_distance,
    mean_distance,
    precision_and_recall,
    raw,
    reference,
    shares,
)
from pipeline.metrics.values.frechet import frechet_distance

SETTINGS = {  # that a card records beside k
    "hq": {"radius": RADIUS},
    "modes": {"radius": RADIUS, "fair_share": FAIR_SHARE},
    "mode_kl": {"radius": RADIUS},
}
CHECKED = ("hq", "modes", "mode_kl", "energy", "frechet_2d", "precision", "recall")  # by the sensitivity check


class PointEvaluator(Evaluator):
    """Extractor: the coordinates themselves, before they were centred and scaled for networks."""

    name = COORDINATES
    layer = "input"
    preprocessing = "raw coordinates"
    digest = hashlib.sha256(f"{COORDINATES}/{preprocessing}".encode()).hexdigest()

    def __init__(self, data: Path, features: Path, about: Mapping[str, Any]) -> None:
        super().__init__(data)
        facts = facts_of(data)
        if "law" not in facts:
            raise UserError(f"{data}: points need a known distribution: give `facts` of the dataset's Source a `law`")
        self.law, self.affine = MixtureDistribution.of(facts["law"]), facts["affine"]
        self.references = {
            split: Reference.load(features / f"{COORDINATES}-{split}.safetensors") for split in ("train", "held_out")
        }

    @cached_property
    def held_out_distance(self) -> float:
        return mean_distance(self.references["held_out"].features)

    def features(self, images: np.ndarray) -> np.ndarray:
        return raw(images, self.affine)

    def against_held_out(self, pictures: Samples) -> dict[Card, MetricValue]:
        """Held-out points are as many as generated ones: among more points, neighbourhoods would be smaller."""
        points, real = self.features(pictures.read().images), self.references["held_out"]
        values = _against_samples(points, real, self.held_out_distance)
        return {self._card(name, points, "held_out"): value for name, value in values.items()}

    def against_train(self, pictures: Samples) -> dict[Card, MetricValue]:
        """Against the mixture itself; the Frechet distance is to the training points, as in the paper's table."""
        points = self.features(pictures.read().images)
        values = {self._card(name, points, "law"): value for name, value in self._against_law(points).items()}
        return values | {self._card("frechet_2d", points, "train"): _frechet(points, self.references["train"])}

    def compare(self, features: np.ndarray, real: np.ndarray) -> dict[str, float]:
        side = reference(real)
        values = self._against_law(features) | _against_samples(features, side)
        values["frechet_2d"] = _frechet(features, side)
        return {name: values[name].value for name in CHECKED}

    def classes(self, pictures: Pictures) -> np.ndarray:
        return self.law.nearest(self.features(pictures.images))

    def _against_law(self, points: np.ndarray) -> dict[str, MetricValue]:
        return shares(points, self.law)._asdict()

    def _card(self, metric: str, points: np.ndarray, against: str) -> Card:
        if against == "law":
            law = repr((self.law.centres.tolist(), self.law.std, self.law.clip))
            n_real, digest = 0, hashlib.sha256(law.encode()).hexdigest()
        else:
            n_real, digest = self.references[against].n, self.references[against].digest
        return card_of(metric, self, len(points), n_real, against, digest, SETTINGS.get(metric))


def _against_samples(points: np.ndarray, real: Reference, distance: float | None = None) -> dict[str, MetricValue]:
    """distance: mean distance of two real points, where it is known."""
    precision, recall = precision_and_recall(points, real, NEIGHBOURS_OF["precision"])
    energy = energy_distance(points, real.features, distance)
    return {"energy": energy, "precision": precision, "recall": recall}


def _frechet(points: np.ndarray, real: Reference) -> MetricValue:
    return frechet_distance(FeatureStats.of(points), real.stats, real.factor)
