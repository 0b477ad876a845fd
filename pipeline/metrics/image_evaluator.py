"""Judge of pictures: the small network, pixels, and Inception if stage `features` had its weights."""

from collections.abc import Mapping
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import KMeans

from pipeline.data.artifacts import facts_of
from pipeline.data.row_index import ShardedRows, open_rows
from pipeline.data.shards import Pictures
from pipeline.metrics.card import SPATIAL, Card, MetricValue, card_of
from pipeline.metrics.evaluator import Evaluator, Samples
from pipeline.metrics.features.extract import inception, outputs, recognised, reference_file
from pipeline.metrics.features.extractors import Extractor, Features, Pixels, SmallNetwork
from pipeline.metrics.features.nearest_neighbours import nearest_distances
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.weights import INCEPTION
from pipeline.metrics.suite import Real, compute
from pipeline.metrics.values.classifier_accuracy import SvmClassifier

NETWORK = "small-cnn.safetensors"
WATCHED = ("fd", "kid", "precision", "recall", "density", "coverage")  # by the immune system
NEIGHBOURHOODS = ("precision", "recall", "f1", "density", "coverage")
OF_SOME = ("kid", *NEIGHBOURHOODS)  # compare pairs of samples: with the real ones whose features are stored
OF_INCEPTION = ("fid", "sfid", "kid", "is", *NEIGHBOURHOODS)  # against the training split, as published FIDs are
SVM_VALUES = 20_000_000  # training pixels; with more, the network classifies instead of a support vector machine
STANDING_IN = 10  # clusters, where there are no classes


class ImageEvaluator(Evaluator):
    def __init__(self, data: Path, features: Path, about: Mapping[str, Any]) -> None:
        super().__init__(data)
        facts = facts_of(data)
        self.values, self.class_count = len(self.train) * int(np.prod(facts["shape"])), facts["classes"]
        self.names: list[str] = about["extractors"]
        self.network = SmallNetwork.load(features / NETWORK) if "small-cnn" in self.names else None
        self.extractors: dict[str, Extractor] = {} if self.network is None else {self.network.name: self.network}
        if Pixels.name in self.names:
            self.extractors[Pixels.name] = Pixels()
        if INCEPTION in self.names:
            self.extractors[INCEPTION] = inception(about["inception"])
        self.references = {
            (name, split): Reference.load(features / reference_file(name, split))
            for name in self.names
            for split in ("train", "held_out")
        }
        spatial = features / reference_file(SPATIAL, "train")
        self.spatial = Reference.load(spatial) if spatial.is_file() else None

    def open(self, folder: Path, split: str) -> ShardedRows:
        return open_rows(folder, split)

    @cached_property
    def svm(self) -> SvmClassifier | None:
        """None: the data are too large for one."""
        if self.values > SVM_VALUES:
            return None
        train = self.train.read()
        return SvmClassifier.fit(train.images, train.labels)

    def features(self, images: np.ndarray) -> np.ndarray:
        return self.extractors[self.names[0]].outputs(images).features

    def compare(self, features: np.ndarray, real: np.ndarray) -> dict[str, float]:
        return watched(features, real)

    def classes(self, pictures: Pictures) -> np.ndarray:
        if self.network is not None:
            return pictures.labels
        clusters = KMeans(STANDING_IN, random_state=0).fit_predict(self.features(pictures.images))
        return clusters.astype(np.int64)

    def against_held_out(self, pictures: Samples) -> dict[Card, MetricValue]:
        first = self.names[0]
        return self._against("held_out", {} if first == INCEPTION else {first: ("fd", "kid")}, pictures)

    def against_train(self, pictures: Samples) -> dict[Card, MetricValue]:
        asked = {Pixels.name: ("precision", "recall"), self.names[0]: NEIGHBOURHOODS, INCEPTION: OF_INCEPTION}
        found = self._against("train", asked, pictures)
        if Pixels.name in self.extractors:
            found |= self._nearest(pictures, Pixels())
        return found if self.network is None else found | self._accuracy(pictures)

    def _against(self, split: str, asked: Mapping[str, tuple[str, ...]], pictures: Samples) -> dict[Card, MetricValue]:
        found: dict[Card, MetricValue] = {}
        for name, extractor in self.extractors.items():
            if name in asked:
                real = Real(self.references[name, split], self.spatial if name == INCEPTION else None)
                values = compute(asked[name], outputs(extractor, pictures), real)
                found |= {self._card(metric, extractor, len(pictures), split): m for metric, m in values.items()}
        return found

    def _nearest(self, pictures: Samples, pixels: Pixels) -> dict[Card, MetricValue]:
        """`nearest_neighbour_distance` to all training pictures, some at a time."""
        generated = outputs(pixels, pictures).features
        train = (pixels.outputs(piece.images).features for _, piece in self.train.by_shard())
        found = (nearest_distances(generated, features) for features in train)
        value = MetricValue(float(np.sqrt(reduce(np.minimum, found)).mean()))
        return {self._card("nn_distance", pixels, len(pictures), "train"): value}

    def _accuracy(self, pictures: Samples) -> dict[Card, MetricValue]:
        """By a support vector machine, which shares no features with the network, unless the data are too large."""
        judge, network = self.svm, self.network
        assert network is not None
        if judge is not None:
            value = judge.accuracy(*pictures.read()[:2])
        else:
            judge = network
            value = MetricValue(recognised(network, pictures), self._empty_classes(pictures))
        digest = self.references[self.names[0], "train"].digest
        return {card_of("accuracy", judge, len(pictures), len(self.train), "train", digest): value}

    def _empty_classes(self, pictures: Samples) -> tuple[str, ...]:
        missing = np.setdiff1d(range(self.class_count), pictures.labels).tolist()
        return (f"no picture was asked for of classes {missing}",) if missing else ()

    def _card(self, metric: str, extractor: Extractor, n: int, split: str) -> Card:
        real = self.references[extractor.name, split]
        n_real = len(real.features) if metric in OF_SOME else real.n
        return card_of(metric, extractor, n, n_real, split, real.digest)


def watched(features: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """The metrics of pictures whose sensitivity is checked."""
    found = compute(WATCHED, Features(features), Real.of(Features(real), WATCHED))
    return {name: measured.value for name, measured in found.items()}
