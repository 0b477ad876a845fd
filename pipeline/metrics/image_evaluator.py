"""Evaluator of pictures: the small network, pixels, and Inception if stage `features` had its weights."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.artifacts import facts_of
from pipeline.data.row_index import ShardedRows, open_rows
from pipeline.data.shards import Pictures
from pipeline.metrics.card import COMPARE_SAMPLES, NEIGHBOURS_OF, SPATIAL, Card, MetricValue, card_of
from pipeline.metrics.evaluator import Evaluator, Samples
from pipeline.metrics.features.attribute_network import AttributeNetwork
from pipeline.metrics.features.extract import inception, outputs, own_network, recognised, reference_file
from pipeline.metrics.features.extractors import Extractor, Features, Pixels
from pipeline.metrics.features.nearest_neighbours import nearest_distances
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.weights import INCEPTION
from pipeline.metrics.suite import Real, compute
from pipeline.metrics.values.attribute_accuracy import all_attributes, attribute_accuracy
from pipeline.metrics.values.classifier_accuracy import SvmClassifier
from pipeline.metrics.values.combinations import combinations

WATCHED = ("fd", "kid", "precision", "recall", "density", "coverage")  # by the sensitivity check
INCEPTION_METRICS = ("fid", "sfid", "kid", "is", *NEIGHBOURS_OF)  # against the training split, as published FIDs are
MAX_SVM_PIXELS = 20_000_000  # of all training pictures; with more, the network classifies instead
CLUSTERS = 10  # that replace classes where there are none


class ImageEvaluator(Evaluator):
    def __init__(self, data: Path, features: Path, about: Mapping[str, Any]) -> None:
        super().__init__(data)
        facts = facts_of(data)
        self.pixels, self.class_count = len(self.train) * int(np.prod(facts["shape"])), facts["classes"]
        self.names: list[str] = about["extractors"]
        self.attribute_names: list[str] = facts.get("attribute_names", [])
        self.network = own_network(features)
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
        """None: too many training pixels, or a network that reads the class among other attributes."""
        if self.pixels > MAX_SVM_PIXELS or isinstance(self.network, AttributeNetwork):
            return None
        train = self.train.read()
        return SvmClassifier.fit(train.images, train.labels)

    def features(self, images: np.ndarray) -> np.ndarray:
        return self.extractors[self.names[0]].outputs(images).features

    def compare(self, features: np.ndarray, real: np.ndarray) -> dict[str, float]:
        return watched(features, real)

    def classes(self, pictures: Pictures) -> np.ndarray:
        if self.class_count:
            return pictures.labels
        from sklearn.cluster import KMeans

        clusters = KMeans(CLUSTERS, random_state=0).fit_predict(self.features(pictures.images))
        return clusters.astype(np.int64)

    def against_held_out(self, pictures: Samples) -> dict[Card, MetricValue]:
        first = self.names[0]
        return self._against("held_out", {} if first == INCEPTION else {first: ("fd", "kid")}, pictures)

    def against_train(self, pictures: Samples) -> dict[Card, MetricValue]:
        metrics = {
            Pixels.name: ("precision", "recall"), self.names[0]: tuple(NEIGHBOURS_OF), INCEPTION: INCEPTION_METRICS
        }  # fmt: skip
        values = self._against("train", metrics, pictures)
        if Pixels.name in self.extractors:
            values |= self._nearest(pictures, Pixels())
        if self.class_count:
            values |= self._accuracy(pictures)
        return values | self._attributes(pictures) if isinstance(self.network, AttributeNetwork) else values

    def _against(
        self, split: str, metrics: Mapping[str, tuple[str, ...]], pictures: Samples
    ) -> dict[Card, MetricValue]:
        """metrics: by extractor."""
        by_card: dict[Card, MetricValue] = {}
        for name, extractor in self.extractors.items():
            if name in metrics:
                real = Real(self.references[name, split], self.spatial if name == INCEPTION else None)
                values = compute(metrics[name], outputs(extractor, pictures), real)
                by_card |= {self._card(metric, extractor, len(pictures), split): m for metric, m in values.items()}
        return by_card

    def _nearest(self, pictures: Samples, pixels: Pixels) -> dict[Card, MetricValue]:
        """`nearest_neighbour_distance` to all training pictures, shard by shard."""
        generated = outputs(pixels, pictures).features
        train = (pixels.outputs(piece.images).features for _, piece in self.train.by_shard())
        distances = (nearest_distances(generated, features) for features in train)
        value = MetricValue(float(np.sqrt(reduce(np.minimum, distances)).mean()))
        return {self._card("nn_distance", pixels, len(pictures), "train"): value}

    def _accuracy(self, pictures: Samples) -> dict[Card, MetricValue]:
        """By a support vector machine, which shares no features with the network; of large data by the network."""
        classifier, network = self.svm, self.network
        assert network is not None
        if classifier is not None:
            value = classifier.accuracy(*pictures.read()[:2])
        else:
            classifier = network
            value = MetricValue(recognised(network, pictures), self._empty_classes(pictures))
        digest = self.references[self.names[0], "train"].digest
        return {card_of("accuracy", classifier, len(pictures), len(self.train), "train", digest): value}

    def _attributes(self, pictures: Samples) -> dict[Card, MetricValue]:
        """As the network reads them; accuracies only of pictures with attributes, which were wanted of them."""
        network = self.network
        assert isinstance(network, AttributeNetwork)
        logits, wanted = outputs(network, pictures).logits, pictures.attributes
        assert logits is not None
        read = network.values(logits)

        def card(metric: str, of: str = "") -> Card:
            described = self._card(metric, network, len(pictures), "train")
            return replace(described, extractor=described.extractor + of, layer="attributes")

        values = {card("combinations"): combinations(read)}
        if wanted is not None:
            by_name = attribute_accuracy(read, wanted, self.attribute_names)
            values |= {card("attribute_accuracy", f"/{name}"): value for name, value in by_name.items()}
            values |= {card("all_attributes"): all_attributes(read, wanted)}
        return values

    def _empty_classes(self, pictures: Samples) -> tuple[str, ...]:
        missing = np.setdiff1d(range(self.class_count), pictures.labels).tolist()
        return (f"no picture was generated for classes {missing}",) if missing else ()

    def _card(self, metric: str, extractor: Extractor, n: int, split: str) -> Card:
        real = self.references[extractor.name, split]
        n_real = len(real.features) if metric in COMPARE_SAMPLES else real.n
        return card_of(metric, extractor, n, n_real, split, real.digest)


def watched(features: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Values of the metrics that the sensitivity check uses for pictures."""
    values = compute(WATCHED, Features(features), Real.of(Features(real), WATCHED))
    return {name: value.value for name, value in values.items()}
