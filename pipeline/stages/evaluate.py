"""evaluate: every sampled set, measured; each value with its card and its floor."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.artifacts import Artifact, Draft
from pipeline.cards import METRICS_FILE, Card
from pipeline.errors import UserError
from pipeline.features import DigitsNetwork, Extractor, FeatureStats, Pixels, Reference
from pipeline.metrics import (
    Measured,
    SvmJudge,
    frechet_distance,
    kid,
    manifold,
    nearest_neighbour_distance,
)
from pipeline.shards import Pictures, read_pictures
from pipeline.stage import Around
from pipeline.stages.features import NETWORK, reference_file

K = 3  # neighbours of precision and recall
FLOOR_DRAWS = 5  # subsets of the training pictures that stand in for samples


@dataclass(frozen=True)
class Config: ...


@dataclass(frozen=True)
class Item:
    """One set to measure, anywhere."""

    data: Path
    features: Path
    samples: Path
    split: str


class Judge:
    """Extractors and references in memory; measures any pictures in the same way, generated or real."""

    def __init__(self, data: Path, features: Path) -> None:
        self.train = read_pictures(data, "train")
        self.held_out = read_pictures(data, "held_out")
        self.network = DigitsNetwork.load(features / NETWORK)
        self.references = {
            (name, split): Reference.load(features / reference_file(name, split))
            for name in ("digits-cnn", "pixels")
            for split in ("train", "held_out")
        }
        self.svm = SvmJudge.fit(self.train.images, self.train.labels)

    def against_held_out(self, pictures: Pictures) -> dict[Card, Measured]:
        """Distances to real pictures that no network was trained on."""
        real = self.references["digits-cnn", "held_out"]
        features = self.network(pictures.images)
        card = self._card(self.network, len(pictures), "held_out")
        return {
            card("fd"): frechet_distance(FeatureStats.of(features), real.stats, real.factor),
            card("kid"): kid(features, real.features),
        }

    def against_train(self, pictures: Pictures) -> dict[Card, Measured]:
        """Neighbourhoods among the training pictures, classes, and copies."""
        found: dict[Card, Measured] = {}
        for extractor in (self.network, Pixels()):
            real = self.references[extractor.name, "train"]
            cover = manifold(extractor(pictures.images), real, K)
            card = self._card(extractor, len(pictures), "train", k=K)
            found |= {card("precision"): cover.precision, card("recall"): cover.recall}
        pixels = Pixels()
        card = self._card(pixels, len(pictures), "train")
        real = self.references["pixels", "train"]
        found[card("nn_distance")] = nearest_neighbour_distance(pixels(pictures.images), real.features)
        judged = Card(
            "accuracy", self.svm.name, self.svm.digest, "class", self.svm.preprocessing, len(pictures), len(self.train),
            "train", real.digest,
        )  # fmt: skip
        return found | {judged: self.svm.accuracy(pictures.images, pictures.labels)}

    def floors(self, images: int) -> dict[Card, float]:
        """Real against real at the same n: training against held-out pictures for distances, else the other way."""
        if images > len(self.held_out):
            raise UserError(f"evaluate.images: {images} came, but only {len(self.held_out)} are held out for the floor")
        rng = np.random.default_rng(0)
        subsets = [rng.permutation(len(self.train))[:images] for _ in range(FLOOR_DRAWS)]
        draws = [self.against_held_out(self.train.rows(subset)) for subset in subsets]
        floors = {card: float(np.mean([draw[card].value for draw in draws])) for card in draws[0]}
        return floors | {card: m.value for card, m in self.against_train(self.held_out.rows(slice(images))).items()}

    def _card(self, extractor: Extractor, n: int, split: str, **settings: int):
        real = self.references[extractor.name, split]

        def card(metric: str) -> Card:
            return Card(
                metric, extractor.name, extractor.digest, extractor.layer, extractor.preprocessing, n, real.n,
                split, real.digest, settings=tuple(settings.items()),
            )  # fmt: skip

        return card


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, around: Around) -> None:
    samples = inputs["samples"]
    folders = inputs["prepare"].path, inputs["features"].path
    sets = list(samples.manifest.seeds)
    items = [Item(*folders, samples.path, split) for split in sets]
    by_set: list[dict[Card, Measured]] = []
    for measured in around.launch.map(measure, items):
        by_set.append(measured)
        around.watch.progress(len(by_set), len(items))
    floors = Judge(*folders).floors(next(iter(by_set[0])).n_generated)
    rows = [
        {
            "metric": card.metric,
            "card": asdict(card) | {"id": card.id, "text": str(card)},
            "values": [measured[card].value for measured in by_set],
            "floor": floors[card],
            "warnings": sorted({warning for measured in by_set for warning in measured[card].warnings}),
        }
        for card in by_set[0]
    ]
    content = {
        "sets": sets,
        "counts": {name: samples.manifest.facts[name] for name in ("nfe", "guide_calls")},
        "metrics": rows,
    }
    (out.path / METRICS_FILE).write_text(json.dumps(content, indent=1) + "\n")
    out.facts.update(images=samples.manifest.facts["images"])
    around.watch.results(
        {f"{row['metric']} {row['card']['extractor']}": float(np.mean(row["values"])) for row in rows}
        | {name: content["counts"][name] for name in content["counts"]}
    )


def measure(item: Item) -> dict[Card, Measured]:
    pictures = read_pictures(item.samples, item.split)
    judge = Judge(item.data, item.features)
    return judge.against_held_out(pictures) | judge.against_train(pictures)
