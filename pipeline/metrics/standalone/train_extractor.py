"""Training of the small feature network on labelled pictures, for `trilemma measure --extractor`."""

import os
from pathlib import Path

import numpy as np

from pipeline.data.sample_order import content_order, digests
from pipeline.errors import UserError
from pipeline.metrics.features.extractors import SmallNetwork
from pipeline.metrics.standalone.image_files import read_chunks
from pipeline.metrics.standalone.intake import Intake
from pipeline.metrics.standalone.label_files import ARRAY, COLUMN, read_labels

SUFFIX = ".safetensors"


def train_extractor(source: Path, out: Path, epochs: int, seed: int) -> str:
    """Writes the network to `out`; returns its accuracy on the training pictures, and a line for each warning."""
    if out.suffix != SUFFIX:
        raise UserError(f"{out}: pass a name that ends in {SUFFIX}")
    labels = _labels(source)
    intake = Intake()
    images = np.concatenate(list(read_chunks(source, intake)))
    if len(images) != len(labels):
        raise UserError(f"{source}: {len(labels)} labels for {len(images)} pictures: pass one each")
    order = content_order(digests(images), labels)
    images, labels = images[order], labels[order]
    network = SmallNetwork.train(images, labels, seed, epochs)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    network.save(unfinished)
    unfinished.replace(out)
    accuracy = network.accuracy(images, labels)
    result = f"{out}: {network.classes} classes, {accuracy:.1%} of the training pictures classified correctly"
    return "\n".join([result, *(f"warning: {source}: {line}" for line in intake.warnings())])


def _labels(source: Path) -> np.ndarray:
    located = read_labels(source)
    if located is None:
        raise UserError(f"{source} has no labels: pass Parquet with integers in `{COLUMN}`, or .npz with `{ARRAY}`")
    missing = [label for label in located if label.value < 0]
    if missing:
        raise UserError(f"{missing[0].where} has no label ({len(missing)} such rows): label every picture")
    labels = np.array([label.value for label in located])
    classes = np.unique(labels)
    if len(classes) < 2 or classes[-1] != len(classes) - 1:
        raise UserError(f"{source}: labels are {classes[:10].tolist()}..., wanted 0, 1, ... with at least two classes")
    return labels
