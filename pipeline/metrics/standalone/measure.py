"""Anybody's samples against anybody's real ones: values with interval, floor and card."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import UserError
from pipeline.metrics.card import Card
from pipeline.metrics.features.extractors import Extractor, Features, Pixels
from pipeline.metrics.features.weights import INCEPTION
from pipeline.metrics.standalone.extractors import extractor_named
from pipeline.metrics.standalone.image_files import splits_of
from pipeline.metrics.standalone.inputs import read_sides
from pipeline.metrics.standalone.jackknife import INTERVAL, SMALLEST, half_widths, rows
from pipeline.metrics.standalone.measure_cache import Cache, digest_of
from pipeline.metrics.suite import KID_LARGEST, KID_SUBSET, NEIGHBOURS_OF, SCORE_SPLITS, Arrays, Keep, Real, compute

SPATIAL_LAYER = "spatial-7x17x17"
GIVEN = "none"  # the extractor of features that came as such
ALWAYS = ("kid", "precision", "recall", "f1", "density", "coverage")
BY_NAME = ("fd", "fid", "sfid", "is", "accuracy", "nn_distance", *ALWAYS)
SHARED = (  # fields of a card that all metrics of a measurement have in common
    *("extractor", "extractor_digest", "layer", "preprocessing"),
    *("n_generated", "n_real", "reference", "reference_digest"),
)


class Value(NamedTuple):
    """A number with its 95 % interval, and the same for real against real."""

    value: float
    low: float
    high: float
    floor: float | None


@dataclass(frozen=True)
class Measurement:
    values: dict[str, Value]
    cards: dict[str, Card]
    floor: str  # how the floors came about
    warnings: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """{metric: {value, ci_low, ci_high, floor}, ..., "card": {...}}"""
        first = next(iter(self.cards.values()))
        shared = {name: getattr(first, name) for name in SHARED}
        about = {
            "ids": {metric: card.id for metric, card in self.cards.items()},
            "settings": {metric: dict(card.settings) for metric, card in self.cards.items() if card.settings},
            "interval": INTERVAL,
            "floor": self.floor,
            "warnings": list(self.warnings),
        }
        named = {
            metric: {
                "value": found.value,
                "ci_low": _or_null(found.low),
                "ci_high": _or_null(found.high),
                "floor": found.floor,
            }
            for metric, found in self.values.items()
        }
        return named | {"card": shared | about}


def measure(
    generated: Path,
    real: Path,
    extractor: str | None = None,
    metrics: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    images: int | None = None,
    cache: Cache | None = None,
) -> Measurement:
    """extractor: a name, "none" for features, None for the best at hand. seeds: of the splits behind the floors.

    images: use the first so many generated samples only. cache: keeps what is learned of the real side.
    """
    network = None if extractor == GIVEN else extractor_named(extractor)
    ours, theirs, keep = read_sides(generated, real, network, cache)
    ours = rows(ours, slice(images))
    names = _chosen(metrics, network, ours)
    reference = Real(theirs, names, keep)
    values = compute(names, ours, reference)
    halves = half_widths(
        lambda kept: _apart_from_kid(names, kept, reference), ours, theirs.features if "kid" in names else None
    )
    floors, how = _floors(names, theirs, len(ours), seeds, keep)
    found = {
        name: Value(measured.value, *_bounds(name, measured.value, halves.get(name, nan)), floors.get(name))
        for name, measured in values.items()
    }
    warned = [f"{name}: {warning}" for name, measured in values.items() for warning in measured.warnings]
    warned += [] if halves else [f"no interval: {len(ours)} generated samples, fewer than {SMALLEST}"]
    warned += [] if floors else [f"no floor: {how}"]
    cards = {name: _card(name, network, ours, reference, real) for name in names}
    return Measurement(found, cards, how, (*warned, *_about_sources(generated, real, extractor, network)))


def numbers(text: str) -> tuple[int, ...]:
    """Seeds as people write them: 0,1,2."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"seeds: {text!r} came, wanted whole numbers such as 0,1,2")
    return tuple(int(part) for part in parts)


def _chosen(metrics: Sequence[str] | None, network: Extractor | None, ours: Features) -> tuple[str, ...]:
    is_inception = network is not None and network.name == INCEPTION
    if metrics is None:
        more = [name for name in ("is", "accuracy") if _is_computable(name, ours) and len(ours) >= SMALLEST]
        return ("fid" if is_inception else "fd", *ALWAYS, *more)
    for name in metrics:
        if name not in BY_NAME:
            raise UserError(f"metrics: {name!r} is not measured here; there are {', '.join(BY_NAME)}")
        if name in ("fid", "sfid") and not is_inception:
            raise UserError(f"metrics: {name} means Inception features: name {INCEPTION} as extractor, or ask for fd")
        if name == "is" and ours.logits is None:
            raise UserError("metrics: is needs logits: use a network that classifies, or add the array `logits`")
        if name == "accuracy" and not _is_computable(name, ours):
            raise UserError(
                "metrics: accuracy needs a label of every generated sample (column `label`, array `labels`) and a "
                "network trained on these classes (FILE.safetensors: trilemma weights train), or the array `logits`"
            )
    return tuple(dict.fromkeys(metrics))


def _apart_from_kid(names: Sequence[str], generated: Features, real: Real) -> dict[str, float]:
    found = compute([name for name in names if name != "kid"], generated, real)
    return {name: measured.value for name, measured in found.items()}


def _floors(
    names: Sequence[str], theirs: Features, images: int, seeds: Sequence[int], keep: Keep
) -> tuple[dict[str, float], str]:
    """The same metrics for real against other real samples, as many as were generated; mean over the seeds."""
    if len(theirs) < 2 * images:
        enough = f"{images} generated samples need {2 * images} real ones for a floor, there are {len(theirs)}"
        return {}, f"{enough}: add real samples, or measure fewer with --images {len(theirs) // 2}"
    with_floor = [name for name in names if _is_computable(name, theirs)]

    def means() -> Arrays:
        draws = []
        for seed in seeds:
            order = np.random.default_rng(seed).permutation(len(theirs))
            rest = Real(rows(theirs, order[images:]), with_floor)
            draws.append(compute(with_floor, rows(theirs, order[:images]), rest))
        return {name: np.array([np.mean([draw[name].value for draw in draws])]) for name in with_floor}

    labels = {} if theirs.labels is None else {"labels": theirs.labels}  # they are no part of the pictures
    found = keep(f"floors of {images} by seeds {[*seeds]}: {with_floor}, labels {digest_of(labels)}", means)
    fewer = (
        f"{len(theirs) - images} others, mean of seeds {[*seeds]} (fewer real ones: distances and coverage a little up)"
    )
    return {name: float(mean[0]) for name, mean in found.items()}, f"{images} real samples against the {fewer}"


def _is_computable(name: str, given: Features) -> bool:
    if name == "accuracy":
        return given.logits is not None and given.labels is not None
    return name != "is" or given.logits is not None


def _or_null(bound: float) -> float | None:
    return None if isnan(bound) else bound


def _bounds(name: str, value: float, half: float) -> tuple[float, float]:
    if name in ("precision", "recall", "f1", "coverage", "accuracy"):
        return float(np.clip(value - half, 0, 1)), float(np.clip(value + half, 0, 1))
    return value - half, value + half


def _card(name: str, network: Extractor | None, ours: Features, real: Real, source: Path) -> Card:
    settings: tuple[tuple[str, str | int | float], ...] = ()
    if name in NEIGHBOURS_OF:
        settings = (("k", NEIGHBOURS_OF[name]),)
    elif name == "is":
        settings = (("splits", SCORE_SPLITS),)
    elif name == "kid" and max(len(ours), real.reference.n) > KID_LARGEST:
        settings = (("subset_size", KID_SUBSET),)
    if network is None:
        described = (GIVEN, hashlib.sha256(GIVEN.encode()).hexdigest(), "given", "given")
    else:
        layer = SPATIAL_LAYER if name == "sfid" else network.layer
        described = (network.name, network.digest, layer, network.preprocessing)
    return Card(name, *described, len(ours), real.reference.n, source.name, real.reference.digest, settings=settings)


def _about_sources(generated: Path, real: Path, extractor: str | None, network: Extractor | None) -> list[str]:
    found = [
        f"{side} holds {', '.join(splits_of(side))}: all are read; {side}/{splits_of(side)[0]} reads one"
        for side in (generated, real)
        if len(splits_of(side)) > 1
    ]
    if extractor is None and isinstance(network, Pixels):
        found.append(f"no weights of {INCEPTION} at hand: `fd` is of pixels, not FID (trilemma weights verify)")
    return found
