"""`trilemma measure`: values of metrics with interval, real-vs-real value and card, for files from any source."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.decode import PIXELS
from pipeline.data.sample_order import ORDER, ORDER_SEED
from pipeline.errors import UserError
from pipeline.metrics.card import COMPARE_SAMPLES, Card, card_of
from pipeline.metrics.features.extractors import Extractor, Features, Pixels
from pipeline.metrics.features.weights import INCEPTION
from pipeline.metrics.intervals import t_quantile
from pipeline.metrics.standalone.inputs import GivenFeatures, check_source, extractor_of, features_of
from pipeline.metrics.standalone.jackknife import GROUPS, INTERVAL, MIN_SAMPLES, half_widths, rows
from pipeline.metrics.standalone.reference_file import Kind, RealSide, kind_of, read_real
from pipeline.metrics.standalone.table_files import splits_of
from pipeline.metrics.suite import Real, compute

NEED_SAMPLES = (*COMPARE_SAMPLES, "nn_distance")  # of the real side, not only their mean and covariance
NAMES = ("fd", "fid", "sfid", "is", "accuracy", *NEED_SAMPLES)
SHARES = ("precision", "recall", "f1", "coverage", "accuracy")  # from 0 to 1
SHARED = (  # fields of a card that all metrics of a measurement have in common
    *("extractor", "extractor_digest", "layer", "preprocessing"),
    *("n_generated", "n_real", "reference", "reference_digest"),
)


class Value(NamedTuple):
    """A value with its 95 % interval (NaN: none), and the same metric for real samples against real ones."""

    value: float
    low: float
    high: float
    real_vs_real: float | None


@dataclass(frozen=True)
class Measurement:
    values: dict[str, Value]
    cards: dict[str, Card]
    real_vs_real: str  # how real-vs-real values were computed, or why they are missing
    warnings: tuple[str, ...]
    changed: dict[str, dict[str, int]]  # of each side: how many pictures each rule of `PIXELS` changed

    def json(self) -> dict[str, Any]:
        """{metric: {value, ci_low, ci_high, real_vs_real}, ..., "card": {...}}"""
        first = next(iter(self.cards.values()))
        card = {name: getattr(first, name) for name in SHARED} | {
            "ids": {metric: card.id for metric, card in self.cards.items()},
            "settings": {metric: dict(card.settings) for metric, card in self.cards.items() if card.settings},
            "interval": INTERVAL,
            "real_vs_real": self.real_vs_real,
            "order": ORDER,
            "pixels": {"rules": PIXELS, "changed": self.changed},
            "warnings": list(self.warnings),
        }
        keys = ("value", "ci_low", "ci_high", "real_vs_real")
        values = {
            metric: {key: None if number is None or isnan(number) else number for key, number in zip(keys, value)}
            for metric, value in self.values.items()
        }
        return values | {"card": card}


def measure(
    generated: Path,
    real: Path,
    extractor: str | None = None,
    metrics: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    images: int | None = None,
) -> Measurement:
    """real: samples, a file of `trilemma reference`, or published statistics.

    extractor: a name; "none" for features; None for that of the reference, else Inception if its weights are on this
    machine, else pixels. seeds: of the splits for real-vs-real values. images: use only so many generated samples,
    drawn by their content.
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
    measured = compute(names, samples, reference)
    kid_against = side.samples.features if "kid" in names and side.samples is not None else None
    halves = half_widths(lambda kept: _without_kid(names, kept, reference), samples, kid_against)
    baseline, how = _real_vs_real(names, side, len(samples), seeds)
    values = {
        name: Value(one.value, *_bounds(name, one.value, halves.get(name, nan)), baseline.get(name))
        for name, one in measured.items()
    }
    digest = side.digest or reference.reference.digest
    is_part = len(samples) < checked.n
    seed = {name: {"order_seed": ORDER_SEED} if is_part or name == "is" else {} for name in names}
    cards = {name: card_of(name, network, len(samples), side.n, side.name, digest, seed[name]) for name in names}
    warnings = [f"{name}: {warning}" for name, one in measured.items() for warning in one.warnings]
    warnings += [] if halves else [f"no interval: {len(samples)} generated samples, fewer than {MIN_SAMPLES}"]
    warnings += [] if baseline else [f"no real-vs-real values: {how}"]
    warnings += _about_reference(side, kind, network, metrics)
    warnings += [f"{generated}: {line}" for line in checked.intake.warnings()]
    warnings += [f"{real}: {line}" for line in side.warnings]
    warnings += _about_sources(generated, real, extractor, network)
    changed = {"generated": dict(sorted(checked.intake.changed.items())), "real": dict(sorted(side.changed.items()))}
    return Measurement(values, cards, how, tuple(warnings), changed)


def standard_error(value: Value) -> tuple[float, int]:
    """Behind the value's interval, with its degrees of freedom. Shares are cut at 0 and 1, on one side as a rule."""
    return max(value.value - value.low, value.high - value.value) / t_quantile(GROUPS - 1), GROUPS - 1


def distance_name(extractor: str | None) -> str:
    """Of the Frechet distance in the features of this extractor, as `measure` chooses it."""
    return "fid" if extractor_of(extractor).name == INCEPTION else "fd"


def numbers(text: str) -> tuple[int, ...]:
    """Seeds as in 0,1,2, each once."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"seeds: {text!r} came, wanted whole numbers such as 0,1,2")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _check_names(metrics: Sequence[str] | None, network: Extractor | GivenFeatures, kind: Kind, real: Path) -> None:
    """Errors that need no features."""
    for name in metrics or ():
        if name not in NAMES:
            raise UserError(f"metrics: {name!r} is not measured here; there are {', '.join(NAMES)}")
        if name in ("fid", "sfid") and network.name != INCEPTION:
            raise UserError(f"metrics: {name} means Inception features: use --extractor {INCEPTION}, or the metric fd")
        if name in NEED_SAMPLES and not kind.has_samples:
            raise UserError(
                f"metrics: {name} compares samples, but {real} holds only their mean and covariance: "
                "measure fid, sfid or fd, or pass real samples"
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
        more = [name for name in ("is", "accuracy") if _is_computable(name, samples) and len(samples) >= MIN_SAMPLES]
        return (*names, *more)
    if "is" in metrics and not _is_computable("is", samples):
        raise UserError("metrics: is needs logits: use a network that classifies, or add the array `logits`")
    if "accuracy" in metrics and not _is_computable("accuracy", samples):
        raise UserError(
            "metrics: accuracy needs a label of every generated sample (column `label`, array `labels`) and a "
            "network trained on these classes (FILE.safetensors: trilemma weights train), or the array `logits`"
        )
    if "sfid" in metrics and side.samples is None and not has_spatial:
        raise UserError(f"metrics: sfid needs mu_s and sigma_s, which {side.name} does not hold: measure fid")
    return tuple(dict.fromkeys(metrics))


def _without_kid(names: Sequence[str], generated: Features, real: Real) -> dict[str, float]:
    values = compute([name for name in names if name != "kid"], generated, real)
    return {name: value.value for name, value in values.items()}


def _real_vs_real(
    names: Sequence[str], side: RealSide, images: int, seeds: Sequence[int]
) -> tuple[dict[str, float], str]:
    """The metrics of as many real samples as were generated, against the other real ones; means over the seeds."""
    real = side.samples
    if real is None:
        return {}, f"{side.name} holds no real samples"
    if len(real) < 2 * images:
        needed = f"{images} generated samples need {2 * images} real ones, there are {len(real)}"
        return {}, f"{needed}: add real samples, or measure fewer with --images {len(real) // 2}"
    names = [name for name in names if _is_computable(name, real)]
    draws = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(real))
        draws.append(compute(names, rows(real, order[:images]), Real.of(rows(real, order[images:]), names)))
    others = f"{len(real) - images} others, mean of seeds {[*seeds]}"
    return (
        {name: float(np.mean([draw[name].value for draw in draws])) for name in names},
        f"{images} real samples against the {others} (fewer real ones: distances and coverage a little larger)",
    )


def _is_computable(name: str, given: Features) -> bool:
    if name == "accuracy":
        return given.logits is not None and given.labels is not None
    return name != "is" or given.logits is not None


def _bounds(name: str, value: float, half: float) -> tuple[float, float]:
    if name in SHARES:
        return float(np.clip(value - half, 0, 1)), float(np.clip(value + half, 0, 1))
    return value - half, value + half


def _about_reference(
    side: RealSide, kind: Kind, network: Extractor | GivenFeatures, metrics: Sequence[str] | None
) -> list[str]:
    if side.samples is not None:
        more = (
            f"{side.name} also holds mu and sigma, which are left aside: distances here are to its {side.n} pictures, "
            "not ADM's FID; for that pass a file with mu and sigma alone"
        )
        return [more] if kind.has_statistics else []
    left_out = f"left out: {', '.join(COMPARE_SAMPLES)} compare samples, and {side.name} holds only mean and covariance"
    unverified = (
        f"{side.name} states neither its extractor nor its number of samples: "
        f"the distance is valid only if mu and sigma are of {network.name}'s features"
    )
    return [unverified, *([left_out] if metrics is None else [])]


def _about_sources(generated: Path, real: Path, extractor: str | None, network: Extractor | GivenFeatures) -> list[str]:
    warnings = [
        f"{side} holds {', '.join(splits_of(side))}: all are read; {side}/{splits_of(side)[0]} reads one"
        for side in (generated, real)
        if len(splits_of(side)) > 1
    ]
    if extractor is None and isinstance(network, Pixels):
        no_weights = f"no weights of {INCEPTION} on this machine: `fd` is of pixels, not FID (trilemma weights verify)"
        warnings.append(no_weights)
    return warnings
