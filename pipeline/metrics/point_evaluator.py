"""Judge of points from an exactly known mixture, in its raw coordinates."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.artifacts import facts_of
from pipeline.data.shards import Pictures
from pipeline.errors import UserError
from pipeline.metrics.card import Card, MetricValue
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

K = 3  # neighbours of precision and recall


class PointEvaluator(Evaluator):
    """Extractor: the coordinates themselves, the map to model coordinates undone."""

    preprocessing = "raw coordinates"
    digest = hashlib.sha256(f"{COORDINATES}/{preprocessing}".encode()).hexdigest()

    def __init__(self, data: Path, features: Path, about: Mapping[str, Any]) -> None:
        super().__init__(data)
        facts = facts_of(data)
        if "law" not in facts:
            raise UserError(f"{data}: points of unknown law cannot be measured: give its Source `facts` with `law`")
        self.law, self.affine = MixtureDistribution.of(facts["law"]), facts["affine"]
        self.references = {
            split: Reference.load(features / f"{COORDINATES}-{split}.safetensors") for split in ("train", "held_out")
        }

    @cached_property
    def spread(self) -> float:
        return mean_distance(self.references["held_out"].features)

    def features(self, images: np.ndarray) -> np.ndarray:
        return raw(images, self.affine)

    def against_held_out(self, pictures: Samples) -> dict[Card, MetricValue]:
        """An equally large sample of the law: neighbourhoods would shrink among ten times as many points."""
        points, real = self.features(pictures.read().images), self.references["held_out"]
        precision, recall = precision_and_recall(points, real, K)
        return {
            self._card("energy", points, "held_out"): energy_distance(points, real.features, self.spread),
            self._card("precision", points, "held_out", k=K): precision,
            self._card("recall", points, "held_out", k=K): recall,
        }

    def against_train(self, pictures: Samples) -> dict[Card, MetricValue]:
        """The law itself, and the moments of the training points, as the paper's table has them."""
        points, real = self.features(pictures.read().images), self.references["train"]
        found = shares(points, self.law)
        return {
            self._card("hq", points, "law", radius=RADIUS): found.hq,
            self._card("modes", points, "law", radius=RADIUS, fair_share=FAIR_SHARE): found.modes,
            self._card("mode_kl", points, "law", radius=RADIUS): found.mode_kl,
            self._card("frechet_2d", points, "train"): frechet_distance(
                FeatureStats.of(points), real.stats, real.factor
            ),
        }

    def compare(self, features: np.ndarray, real: np.ndarray) -> dict[str, float]:
        side = reference(real)
        precision, recall = precision_and_recall(features, side, K)
        found = shares(features, self.law)
        return {
            "hq": found.hq.value,
            "modes": found.modes.value,
            "mode_kl": found.mode_kl.value,
            "energy": energy_distance(features, real).value,
            "frechet_2d": frechet_distance(FeatureStats.of(features), side.stats, side.factor).value,
            "precision": precision.value,
            "recall": recall.value,
        }

    def classes(self, pictures: Pictures) -> np.ndarray:
        return self.law.nearest(self.features(pictures.images))

    def _card(self, metric: str, points: np.ndarray, against: str, **settings: float) -> Card:
        exact = against == "law"
        return Card(
            metric, COORDINATES, self.digest, "input", self.preprocessing, len(points),
            n_real=0 if exact else self.references[against].n,  # the law has no n
            reference=against,
            reference_digest=self._law_digest if exact else self.references[against].digest,
            settings=tuple(settings.items()),
        )  # fmt: skip

    @cached_property
    def _law_digest(self) -> str:
        return hashlib.sha256(repr((self.law.centres.tolist(), self.law.std, self.law.clip)).encode()).hexdigest()
