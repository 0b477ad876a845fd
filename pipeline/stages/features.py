"""features: the dataset's own feature network, trained, and the precomputed statistics of the real data.

Real-vs-real values depend on the dataset and n alone, so they are computed here, once for all evaluations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from methods.core.numbers import Count, Seed
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.row_index import ShardedRows, even_positions, open_rows
from pipeline.data.shards import Pictures, read_pictures
from pipeline.errors import UserError
from pipeline.metrics.card import SPATIAL
from pipeline.metrics.evaluate import evaluator_of
from pipeline.metrics.evaluator import write_real_vs_real
from pipeline.metrics.features.attribute_network import AttributeNetwork
from pipeline.metrics.features.extract import inception, network_file, outputs, recognised, reference_file
from pipeline.metrics.features.extractors import WIDEST_PIXELS, Extractor, Pixels, SmallNetwork
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats, Gathered
from pipeline.metrics.features.weights import INCEPTION
from pipeline.metrics.mixture_metrics import COORDINATES, raw, reference

SPLITS = ("train", "held_out")
CLASSIFIER = "classifier"  # a split that only the feature network is trained on, in place of `train`
EPOCHS = 60  # of the small network
MAX_TRAINING_VALUES = 2**30  # numbers in the images that the feature network is trained on; of more, evenly spaced ones
MAX_REFERENCE_ROWS = 50_000  # of a split, evenly spaced: as many as papers compare neighbourhoods of


@dataclass(frozen=True)
class Config:
    """The `features` block of a dataset, and how many images of a run are evaluated."""

    images: Count  # n of the real-vs-real values
    seed: Seed = 0
    epochs: Count | None = None  # null: 60; of a network that reads attributes 6, or 18 above 16 pixels a side
    inception: str | None = None  # SHA-256 of its weights; `auto` in params.yaml: if they are installed


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    data = inputs["data"]
    if len(data.manifest.facts["shape"]) == 3:
        splits, facts = {split: open_rows(data.path, split) for split in SPLITS}, data.manifest.facts
        own = open_rows(data.path, CLASSIFIER) if CLASSIFIER in facts else splits["train"]
        _write_pictures(splits, own, facts, config, out)
    else:
        for split in SPLITS:
            points = raw(read_pictures(data.path, split).images, data.manifest.facts["affine"])
            reference(points).save(out.path / reference_file(COORDINATES, split))
        out.facts.update(extractors=[COORDINATES], inception=None)
    write_real_vs_real(evaluator_of(data.path, out.path, out.facts).real_vs_real(config.images), out.path)


def _write_pictures(
    splits: Mapping[str, ShardedRows], own: ShardedRows, facts: Mapping[str, Any], config: Config, out: Draft
) -> None:
    """own: the pictures that the dataset's feature network is trained on."""
    values, extractors = int(np.prod(facts["shape"])), list[Extractor]()
    if facts["classes"] or "attributes" in facts:
        network = _trained(own.evenly_spaced(max(1, MAX_TRAINING_VALUES // values)).read(), facts, config)
        network.save(out.path / network_file(network.name))
        extractors.append(network)
        out.facts.update(digest=network.digest)
        if facts["classes"]:
            out.facts.update(held_out_accuracy=recognised(network, splits["held_out"]))
        out.seeds.update(train=config.seed)
    if values <= WIDEST_PIXELS:
        extractors.append(Pixels())
    if config.inception is not None:
        extractors.append(inception(config.inception))
    if not extractors:
        raise UserError(
            f"unlabelled images of {values} values have no features of their own: write "
            f"`features: {{inception: auto}}` and fetch its weights (trilemma weights fetch {INCEPTION})"
        )
    for extractor in extractors:
        for split, rows in splits.items():
            features, spatial = _references(extractor, rows)
            features.save(out.path / reference_file(extractor.name, split))
            if spatial is not None and split == "train":
                spatial.save(out.path / reference_file(SPATIAL, split))
    out.facts.update(extractors=[extractor.name for extractor in extractors], inception=config.inception)


def _trained(pictures: Pictures, facts: Mapping[str, Any], config: Config) -> SmallNetwork | AttributeNetwork:
    if pictures.attributes is None:
        epochs = EPOCHS if config.epochs is None else config.epochs
        return SmallNetwork.train(pictures.images, pictures.labels, config.seed, epochs)
    names, values = facts["label_names"], facts["attribute_values"]
    label = values.index(names) if names else None
    known = (pictures.attributes, facts["attributes"], label)
    return AttributeNetwork.train(pictures.images, *known, config.seed, config.epochs)


def _references(extractor: Extractor, rows: ShardedRows) -> tuple[Reference, Reference | None]:
    """Statistics of all rows, features of at most `MAX_REFERENCE_ROWS`; and the same of spatial features, if any."""
    stats, spatial, kept = Gathered(), Gathered(), list[np.ndarray]()
    is_kept = np.zeros(len(rows), bool)
    is_kept[even_positions(len(rows), MAX_REFERENCE_ROWS)] = True
    for positions, part in rows.by_shard():
        features = outputs(extractor, part)
        stats.add(features.features)
        kept.append(features.features[is_kept[positions]])
        if features.spatial is not None:
            spatial.add(features.spatial)
    reference = Reference.of(np.concatenate(kept), stats.stats())
    return reference, _moments(spatial.stats()) if spatial else None


def _moments(stats: FeatureStats) -> Reference:
    """Statistics without features, which sFID does not need."""
    return Reference(np.empty((0, len(stats.mean)), np.float32), stats, stats.factor(), np.empty((0, 0)))
