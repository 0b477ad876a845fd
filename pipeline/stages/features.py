"""features: the dataset's own feature network, trained and frozen, and the real side of every comparison."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.artifacts import Artifact, Draft
from pipeline.errors import UserError
from pipeline.extractor_weights import INCEPTION
from pipeline.extractors import WIDEST_PIXELS
from pipeline.features import Extractor, FeatureStats, Pixels, Reference, SmallNetwork
from pipeline.mixture_judge import COORDINATES, raw
from pipeline.mixture_metrics import reference
from pipeline.picture_judge import NETWORK, SPATIAL, inception, outputs, reference_file
from pipeline.shards import Pictures, read_pictures
from pipeline.stage import Around

SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class Config:
    """The `features` block of a dataset."""

    seed: int = 0
    epochs: int = 60
    inception: str | None = None  # SHA-256 of its weights; written `auto` in params.yaml: if they are at hand


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, around: Around) -> None:
    data = inputs["data"]
    splits = {split: read_pictures(data.path, split) for split in SPLITS}
    if len(data.manifest.facts["shape"]) == 3:
        _write_pictures(splits, bool(data.manifest.facts["classes"]), config, out)
        return
    for split, points in splits.items():
        found = reference(raw(points.images, data.manifest.facts["affine"]))
        found.save(out.path / reference_file(COORDINATES, split))
    out.facts.update(extractors=[COORDINATES], inception=None)


def _write_pictures(splits: dict[str, Pictures], labelled: bool, config: Config, out: Draft) -> None:
    train, held_out = (splits[split] for split in SPLITS)
    extractors: list[Extractor] = []
    if labelled:
        network = SmallNetwork.train(train.images, train.labels, config.seed, config.epochs)
        network.save(out.path / NETWORK)
        extractors.append(network)
        out.facts.update(digest=network.digest, held_out_accuracy=network.accuracy(held_out.images, held_out.labels))
        out.seeds.update(train=config.seed)
    if train.images[0].size <= WIDEST_PIXELS:
        extractors.append(Pixels())
    if config.inception is not None:
        extractors.append(inception(config.inception))
    if not extractors:
        raise UserError(
            f"unlabelled pictures of {train.images[0].size} values have no features of their own: write "
            f"`features: {{inception: auto}}` and fetch its weights (trilemma weights fetch {INCEPTION})"
        )
    for extractor in extractors:
        for split, pictures in splits.items():
            said = outputs(extractor, pictures.images)
            Reference.of(said.features).save(out.path / reference_file(extractor.name, split))
            if said.spatial is not None and split == "train":
                _moments(said.spatial).save(out.path / reference_file(SPATIAL, split))
    out.facts.update(extractors=[extractor.name for extractor in extractors], inception=config.inception)


def _moments(features: np.ndarray) -> Reference:
    """Without the features themselves, which nobody asks for again."""
    stats = FeatureStats.of(features)
    return Reference(features[:0], stats, stats.factor(), np.empty((0, 0)))
