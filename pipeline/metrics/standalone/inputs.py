"""Inputs of a measurement: the extractor by its name, and sources that are checked before a network runs on them."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError

from pipeline.data.sample_order import content_order, digests
from pipeline.errors import UserError
from pipeline.metrics.features.extract import extract, load_network
from pipeline.metrics.features.extractors import WIDEST_PIXELS, Extractor, Features, OwnNetwork, Pixels, SmallNetwork
from pipeline.metrics.features.weights import INCEPTION, KNOWN, verified_path, weights_folder
from pipeline.metrics.standalone.feature_files import read_features
from pipeline.metrics.standalone.fetch_weights import fetch
from pipeline.metrics.standalone.image_files import CHUNK, describe, read_chunks
from pipeline.metrics.standalone.intake import Intake
from pipeline.metrics.standalone.jackknife import rows
from pipeline.metrics.standalone.label_files import check_classes, known_classes, read_labels
from pipeline.metrics.standalone.ordered_images import OrderedImages, digest_of


class GivenFeatures:
    """In place of an extractor, for features that were extracted elsewhere."""

    name = "none"
    layer = preprocessing = "given"
    digest = hashlib.sha256(b"none").hexdigest()


class Summary(NamedTuple):
    """A checked source; its samples are in an order that follows from their content."""

    source: Path
    n: int
    shape: tuple[int, ...]  # (C, H, W) of its images, or (d,) of its features
    digest: str  # SHA-256 of the values of all samples, whatever their order
    samples: Features | OrderedImages
    labels: np.ndarray | None  # [n] int64, of pictures that all have one
    intake: Intake


def extractor_of(name: str | None) -> Extractor | GivenFeatures:
    """name: none, pixels, inception-v3-compat, another network of torch-fidelity, or a file of the small network.

    None: Inception if its weights are on this machine, else pixels; nothing is downloaded.
    """
    folder = weights_folder()
    if name is None:
        name = Pixels.name if verified_path(INCEPTION, folder, KNOWN[INCEPTION]) is None else INCEPTION
    if name in (GivenFeatures.name, Pixels.name):
        return Pixels() if name == Pixels.name else GivenFeatures()
    if name.endswith(".safetensors"):
        return _own_network(Path(name))
    if name not in KNOWN:
        raise UserError(f"no extractor {name!r}: there are none, pixels, {', '.join(KNOWN)}, or FILE.safetensors")
    from pipeline.metrics.features.inception import Fidelity, Inception  # torch-fidelity takes seconds to import

    weights = fetch(name, folder, KNOWN[name])
    return Inception(weights) if name == INCEPTION else Fidelity(name, weights)


def _own_network(file: Path) -> OwnNetwork:
    hint = "pass a file that `trilemma features` or `trilemma weights train` wrote"
    if not file.is_file():
        raise UserError(f"{file} does not exist: {hint}")
    try:
        return load_network(file)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{file} holds no small network ({str(error).splitlines()[0]}): {hint}") from None


def check_source(source: Path, extractor: Extractor | GivenFeatures) -> Summary:
    """Reads every sample once; an error names the first that cannot be used."""
    intake = Intake()
    if isinstance(extractor, GivenFeatures):
        summary = _given(source, intake)
    else:
        labels = read_labels(source)
        values = None if labels is None else np.array([label.value for label in labels], np.int64)
        images = OrderedImages(read_chunks(source, intake), values)
        of = digest_of(images.digests)
        summary = Summary(source, len(images), images.shape, of, images, None, intake)
        classes = known_classes(source, len(images), intake if isinstance(extractor, SmallNetwork) else Intake())
        summary = summary._replace(labels=None if classes is None else classes[images.order])
    if summary.n < 2:
        raise UserError(f"{source} holds {summary.n} sample: pass at least 2")
    if isinstance(extractor, Pixels) and (values := int(np.prod(summary.shape))) > WIDEST_PIXELS:
        raise UserError(f"{source}: {values} pixel values are too many for features: name an extractor")
    if isinstance(extractor, SmallNetwork) and summary.labels is not None:
        check_classes(summary.labels, extractor.classes, source, intake)
    return summary


def _given(source: Path, intake: Intake) -> Summary:
    given = read_features(source, intake)
    values = given.features if given.logits is None else np.concatenate([given.features, given.logits], axis=1)
    of = digests(values)
    samples = rows(given, content_order(of, given.labels))
    return Summary(source, len(given), given.features.shape[1:], digest_of(of), samples, None, intake)


def check_shapes(generated: Summary, real: Path, real_shape: tuple[int, ...]) -> None:
    source, shape = generated.source, generated.shape
    if shape == real_shape:
        return
    if len(shape) == len(real_shape) == 1:
        widths = f"{source} has features of width {shape[0]}, {real} of {real_shape[0]}"
        raise UserError(f"{widths}: use one extractor for both")
    sizes = f"{source} holds {describe(shape)} pictures, {real} {describe(real_shape)}"
    raise UserError(f"{sizes}: convert both to one size and colour")


def features_of(checked: Summary, extractor: Extractor | GivenFeatures) -> Features:
    if isinstance(checked.samples, Features) or isinstance(extractor, GivenFeatures):
        assert isinstance(checked.samples, Features)
        return checked.samples
    features = extract(extractor, checked.n, checked.samples.batches(CHUNK))
    if not isinstance(extractor, SmallNetwork):  # of all networks, only this is trained on the user's classes
        return features
    return replace(features, labels=checked.labels)


def widths_of(checked: Summary, extractor: Extractor | GivenFeatures) -> tuple[int, int | None]:
    """Number of features, and of spatial features if the extractor has them, from one image."""
    if isinstance(checked.samples, Features) or isinstance(extractor, GivenFeatures):
        return checked.shape[0], None
    one = extractor.outputs(checked.samples.first())
    return one.features.shape[1], None if one.spatial is None else one.spatial.shape[1]
