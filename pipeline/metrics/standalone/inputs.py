"""The two sides of a measurement: looked through before any network is asked, then seen through it."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import UserError
from pipeline.metrics.features.extractors import Extractor, Features
from pipeline.metrics.standalone.extractors import classes, extract
from pipeline.metrics.standalone.feature_files import read_features
from pipeline.metrics.standalone.image_files import describe, read_chunks
from pipeline.metrics.standalone.measure_cache import Cache, digest_of
from pipeline.metrics.suite import Arrays, Keep, at_once

OF_PICTURES = ("features", "logits", "spatial")  # what a network says of them


class Sides(NamedTuple):
    generated: Features
    real: Features
    keep: Keep  # of what is learned of the real side


class Seen(NamedTuple):
    """The pictures of a source, whatever files they lie in."""

    data: str  # SHA-256 of their values, in order
    n: int
    shape: tuple[int, ...]  # (C, H, W)


def read_sides(generated: Path, real: Path, network: Extractor | None, cache: Cache | None) -> Sides:
    """network: None for features that came as such. Of a real side that the cache knows no picture is extracted."""
    sources = generated, real
    if network is None:
        ours, theirs = (read_features(source) for source in sources)
        _check_widths(sources, (ours, theirs))
        key = {"data": digest_of(_arrays(theirs, *OF_PICTURES, "labels")), "extractor": None}
    else:
        both = look_at(generated), look_at(real)
        _check_pictures(sources, both)
        key = {name: getattr(network, name) for name in ("name", "digest", "layer", "preprocessing")}
        key |= both[1]._asdict()
        theirs = extract(real, network) if cache is None else _kept(real, network, key, cache, both[1])
        ours = extract(generated, network)
    if cache is None:
        return Sides(ours, theirs, at_once)
    return Sides(ours, theirs, lambda name, make: cache.arrays(key | {"what": name}, make))


def look_at(source: Path) -> Seen:
    """Read every picture; those that cannot be used are named."""
    digest, n, shape = hashlib.sha256(), 0, (0, 0, 0)
    for images in read_chunks(source):
        n, shape = n + len(images), images.shape[1:]
        digest.update(np.ascontiguousarray(images).data)
    return Seen(digest.hexdigest(), n, shape)


def _kept(source: Path, network: Extractor, key: dict[str, object], cache: Cache, seen: Seen) -> Features:
    """As `extract`; labels are no part of the pictures and read anew."""
    found = cache.arrays(key | {"what": "features"}, lambda: _arrays(extract(source, network), *OF_PICTURES))
    logits, spatial = found.get("logits"), found.get("spatial")
    return Features(found["features"], logits, spatial, seen.shape, classes(source, network, seen.n))


def _arrays(given: Features, *names: str) -> Arrays:
    parts = {name: getattr(given, name) for name in names}
    return {name: array for name, array in parts.items() if array is not None}


def _check_pictures(sources: tuple[Path, Path], seen: tuple[Seen, Seen]) -> None:
    for source, found in zip(sources, seen):
        _check_count(source, found.n)
    if seen[0].shape != seen[1].shape:
        raise UserError(
            f"{sources[0]} holds {describe(seen[0].shape)} pictures, {sources[1]} {describe(seen[1].shape)}: "
            "bring both to one size and colour"
        )


def _check_widths(sources: tuple[Path, Path], given: tuple[Features, Features]) -> None:
    for source, found in zip(sources, given):
        _check_count(source, len(found))
    widths = [found.features.shape[1] for found in given]
    if widths[0] != widths[1]:
        raise UserError(
            f"{sources[0]} has features of width {widths[0]}, {sources[1]} of {widths[1]}: use one extractor for both"
        )


def _check_count(source: Path, n: int) -> None:
    if n < 2:
        raise UserError(f"{source} holds {n} sample: pass at least 2")
