"""The two sides of a measurement: all inputs are checked before a network runs, then their features are extracted."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import UserError
from pipeline.metrics.features.extract import extract
from pipeline.metrics.features.extractors import WIDEST_PIXELS, Extractor, Features, Pixels, SmallNetwork
from pipeline.metrics.standalone.extractors import extractor_named
from pipeline.metrics.standalone.feature_files import read_features
from pipeline.metrics.standalone.image_files import describe, read_chunks
from pipeline.metrics.standalone.label_files import known_classes


class GivenFeatures:
    """Stands for the extractor of features that were extracted elsewhere."""

    name = "none"
    layer = preprocessing = "given"
    digest = hashlib.sha256(b"none").hexdigest()


class Summary(NamedTuple):
    """A checked source."""

    source: Path
    n: int
    shape: tuple[int, ...]  # (C, H, W) of its images, or (d,) of its features
    digest: str  # SHA-256 of the values of all samples, in order


def extractor_of(name: str | None) -> Extractor | GivenFeatures:
    """name: as for `extractor_named`, or "none" for features."""
    return GivenFeatures() if name == GivenFeatures.name else extractor_named(name)


def check_source(source: Path, extractor: Extractor | GivenFeatures) -> Summary:
    """Reads every sample; an error names the first one that cannot be used."""
    if isinstance(extractor, GivenFeatures):
        features = read_features(source).features
        digest = hashlib.sha256(np.ascontiguousarray(features).data).hexdigest()
        found = Summary(source, len(features), features.shape[1:], digest)
    else:
        sha256, n, shape = hashlib.sha256(), 0, (0, 0, 0)
        for images in read_chunks(source):
            n, shape = n + len(images), images.shape[1:]
            sha256.update(np.ascontiguousarray(images).data)
        found = Summary(source, n, shape, sha256.hexdigest())
    if found.n < 2:
        raise UserError(f"{source} holds {found.n} sample: pass at least 2")
    if isinstance(extractor, Pixels) and (values := int(np.prod(found.shape))) > WIDEST_PIXELS:
        raise UserError(f"{source}: {values} pixel values are too many for features: name an extractor")
    return found


def check_shapes(generated: Summary, real: Path, real_shape: tuple[int, ...]) -> None:
    source, shape = generated.source, generated.shape
    if shape == real_shape:
        return
    if len(shape) == len(real_shape) == 1:
        raise UserError(
            f"{source} has features of width {shape[0]}, {real} of {real_shape[0]}: use one extractor for both"
        )
    raise UserError(
        f"{source} holds {describe(shape)} pictures, {real} {describe(real_shape)}: bring both to one size and colour"
    )


def features_of(checked: Summary, extractor: Extractor | GivenFeatures) -> Features:
    if isinstance(extractor, GivenFeatures):
        return read_features(checked.source)
    features = extract(extractor, checked.n, _with_positions(read_chunks(checked.source)))
    if not isinstance(extractor, SmallNetwork):  # the only network trained on the classes of its user's labels
        return features
    return replace(features, labels=known_classes(checked.source, checked.n))


def widths_of(checked: Summary, extractor: Extractor | GivenFeatures) -> tuple[int, int | None]:
    """Number of features, and of spatial features if the extractor has them, from one image."""
    if isinstance(extractor, GivenFeatures):
        return checked.shape[0], None
    one = extractor.outputs(next(read_chunks(checked.source))[:1])
    return one.features.shape[1], None if one.spatial is None else one.spatial.shape[1]


def _with_positions(chunks: Iterable[np.ndarray]) -> Iterator[tuple[slice, np.ndarray]]:
    start = 0
    for images in chunks:
        yield slice(start, start + len(images)), images
        start += len(images)
