"""`trilemma measure`: values of metrics with interval, real-against-real value and card, for files of any origin."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import UserError
from pipeline.metrics.card import Card, card_of
from pipeline.metrics.features.extractors import Extractor, Features, Pixels
from pipeline.metrics.features.weights import INCEPTION
from pipeline.metrics.standalone.image_files import splits_of
from pipeline.metrics.standalone.inputs import GivenFeatures, check_source, extractor_of, features_of
from pipeline.metrics.standalone.jackknife import INTERVAL, SMALLEST, half_widths, rows
from pipeline.metrics.standalone.reference_file import Kind, RealSide, kind_of, read_real
from pipeline.metrics.suite import Real, compute

COMPARE_SAMPLES = ("kid", "precision", "recall", "f1", "density", "coverage")  # measured unless metrics are named
NEED_SAMPLES = (*COMPARE_SAMPLES, "nn_distance")  # of the real side, not only their mean and covariance
BY_NAME = ("fd", "fid", "sfid", "is", "accuracy", "nn_distance", *COMPARE_SAMPLES)
SHARED = (  # fields of a card that all metrics of a measurement have in common
    *("extractor", "extractor_digest", "layer", "preprocessing"),
    *("n_generated", "n_real", "reference", "reference_digest"),
)


class Value(NamedTuple):
    """A number with its 95 % interval, and the same metric for real samples against real ones."""

    value: float
    low: float
    high: float
    floor: float | None


@dataclass(frozen=True)
class Measurement:
    values: dict[str, Value]
    cards: dict[str, Card]
    floor: str  # how the floors were computed
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
) -> Measurement:
    """real: samples, a file of `trilemma reference`, or published statistics.

    extractor: a name, "none" for features, None for that of the reference, else Inception if its weights are on this
    machine, else pixels. seeds: of the splits behind the floors. images: use only the first so many generated samples.
    """
    kind = kind_of(real)
    if extractor is None and kind.about is not None:
        extractor = kind.about["name"]
    network = extractor_of(extractor)
    _check_names(metrics, network, kind, real)
    checked = check_source(generated, network)
    side = read_real(real, kind, network, checked)
    samples = rows(features_of(checked, network), slice(images))
    names = _chosen(metrics, network, samples, side)
    reference = side.prepared(names)
    values = compute(names, samples, reference)
    kid_against = side.samples.features if "kid" in names and side.samples is not None else None
    halves = half_widths(lambda kept: _without_kid(names, kept, reference), samples, kid_against)
    floors, how = _floors(names, side, len(samples), seeds)
    found = {
        name: Value(measured.value, *_bounds(name, measured.value, halves.get(name, nan)), floors.get(name))
        for name, measured in values.items()
    }
    digest = side.digest or reference.reference.digest
    cards = {name: card_of(name, network, len(samples), side.n, side.name, digest) for name in names}
    warnings = [f"{name}: {warning}" for name, measured in values.items() for warning in measured.warnings]
    warnings += [] if halves else [f"no interval: {len(samples)} generated samples, fewer than {SMALLEST}"]
    warnings += [] if floors else [f"no floor: {how}"]
    warnings += _about_reference(side, kind, network, metrics)
    return Measurement(found, cards, how, (*warnings, *_about_sources(generated, real, extractor, network)))


def numbers(text: str) -> tuple[int, ...]:
    """Seeds as in 0,1,2."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"seeds: {text!r} came, wanted whole numbers such as 0,1,2")
    return tuple(int(part) for part in parts)


def _check_names(metrics: Sequence[str] | None, network: Extractor | GivenFeatures, kind: Kind, real: Path) -> None:
    """All that can be refused before features are extracted."""
    for name in metrics or ():
        if name not in BY_NAME:
            raise UserError(f"metrics: {name!r} is not measured here; there are {', '.join(BY_NAME)}")
        if name in ("fid", "sfid") and network.name != INCEPTION:
            raise UserError(f"metrics: {name} means Inception features: name {INCEPTION} as extractor, or ask for fd")
        if name in NEED_SAMPLES and not kind.has_samples:
            raise UserError(
                f"metrics: {name} compares samples, but {real} holds only their mean and covariance: "
                "ask for fid, sfid or fd, or pass real samples"
            )


def _chosen(
    metrics: Sequence[str] | None, network: Extractor | GivenFeatures, samples: Features, side: RealSide
) -> tuple[str, ...]:
    has_spatial = side.saved is not None and side.saved.spatial is not None
    if metrics is None:
        names = ["fid" if network.name == INCEPTION else "fd"]
        if side.samples is not None:
            names += COMPARE_SAMPLES
        elif has_spatial:
            names.append("sfid")
        more = [name for name in ("is", "accuracy") if _is_computable(name, samples) and len(samples) >= SMALLEST]
        return (*names, *more)
    if "is" in metrics and not _is_computable("is", samples):
        raise UserError("metrics: is needs logits: use a network that classifies, or add the array `logits`")
    if "accuracy" in metrics and not _is_computable("accuracy", samples):
        raise UserError(
            "metrics: accuracy needs a label of every generated sample (column `label`, array `labels`) and a "
            "network trained on these classes (FILE.safetensors: trilemma weights train), or the array `logits`"
        )
    if "sfid" in metrics and side.samples is None and not has_spatial:
        raise UserError(f"metrics: sfid needs mu_s and sigma_s, which {side.name} does not hold: ask for fid")
    return tuple(dict.fromkeys(metrics))


def _without_kid(names: Sequence[str], generated: Features, real: Real) -> dict[str, float]:
    found = compute([name for name in names if name != "kid"], generated, real)
    return {name: measured.value for name, measured in found.items()}


def _floors(names: Sequence[str], side: RealSide, images: int, seeds: Sequence[int]) -> tuple[dict[str, float], str]:
    """The same metrics for real samples, as many as were generated, against other real ones; mean over the seeds."""
    real = side.samples
    if real is None:
        return {}, f"{side.name} holds no real samples"
    if len(real) < 2 * images:
        enough = f"{images} generated samples need {2 * images} real ones for a floor, there are {len(real)}"
        return {}, f"{enough}: add real samples, or measure fewer with --images {len(real) // 2}"
    with_floor = [name for name in names if _is_computable(name, real)]
    draws = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(real))
        rest = Real.of(rows(real, order[images:]), with_floor)
        draws.append(compute(with_floor, rows(real, order[:images]), rest))
    floors = {name: float(np.mean([draw[name].value for draw in draws])) for name in with_floor}
    fewer = (
        f"{len(real) - images} others, mean of seeds {[*seeds]} (fewer real ones: distances and coverage a little up)"
    )
    return floors, f"{images} real samples against the {fewer}"


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


def _about_reference(
    side: RealSide, kind: Kind, network: Extractor | GivenFeatures, metrics: Sequence[str] | None
) -> list[str]:
    if side.samples is not None:
        more = f"{side.name} also holds mu and sigma: distances here are to its {side.n} pictures"
        return [more] if kind.has_statistics else []
    left_out = f"left out: {', '.join(COMPARE_SAMPLES)} compare samples, and {side.name} holds only mean and covariance"
    unverified = (
        f"{side.name} states neither its extractor nor its number of samples: "
        f"the distance is valid only if mu and sigma are of {network.name}'s features"
    )
    return [unverified, *([left_out] if metrics is None else [])]


def _about_sources(generated: Path, real: Path, extractor: str | None, network: Extractor | GivenFeatures) -> list[str]:
    found = [
        f"{side} holds {', '.join(splits_of(side))}: all are read; {side}/{splits_of(side)[0]} reads one"
        for side in (generated, real)
        if len(splits_of(side)) > 1
    ]
    if extractor is None and isinstance(network, Pixels):
        found.append(f"no weights of {INCEPTION} on this machine: `fd` is of pixels, not FID (trilemma weights verify)")
    return found
