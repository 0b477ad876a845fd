"""Metric sensitivity check: faults with known answers, in a study's own real samples, measured as its own samples are.

A metric raises an alarm when it is worse than values of real samples against other real ones ever are. Every seeded
fault must raise one and unchanged samples must not. How far a value must move to raise it is the resolving power.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, log, sqrt
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.data.shards import Pictures
from pipeline.metrics.card import METRICS, Card, same_measure
from pipeline.metrics.intervals import t_quantile

SENSITIVITY_FILE = "sensitivity.json"  # in the artifact of `check-metrics`
DRAWS = 100  # values of real samples against real ones, from which limits are computed
FAULT_SPLITS = 3  # splits on which a fault is seeded; its mean effect must exceed the limit of a single value
CLEAN_REPETITIONS = 20  # further splits without a fault
FALSE_ALARM_RATE = 0.01  # of all metrics together, per repetition
MIN_LIMIT_FACTOR = 1.3  # a limit is at least so many times as far from the mean as the worst draw
TAIL_FRACTION = 0.2  # of the draws, to which an exponential tail is fitted: distances have one
SPARE_FRACTION = 0.5  # of n: real samples in neither side, which replace those of a dropped class
NOISE_SCALE = 0.5  # of the pixels' standard deviation

HALF = "half the n"
RESIZE = "box instead of antialiased resize"
SOME_CLASSES = "half of the classes"  # not a fault: these samples show whether precision and recall are swapped

Extract = Callable[[np.ndarray], np.ndarray]
Measure = Callable[[np.ndarray, np.ndarray], dict[str, float]]  # features of samples and of real ones -> value by name


class Finding(NamedTuple):
    """One seeded fault."""

    fault: str
    detected: bool
    by: tuple[str, ...]  # metrics that raised the alarm, or "card"


@dataclass(frozen=True)
class SensitivityReport:
    """Which faults the metrics of a study detect."""

    findings: tuple[Finding, ...]
    resolving_power: dict[str, float]  # smallest change for the worse that a single value shows at this n
    usual: dict[str, float]  # mean of each metric, real against real
    clean_alarms: int
    clean_repetitions: int
    n: int
    n_real: int

    @property
    def all_faults_detected(self) -> bool:
        """And at most one clean repetition in twenty raised an alarm."""
        return all(finding.detected for finding in self.findings) and self.clean_alarms <= self.clean_repetitions / 20


class Usual(NamedTuple):
    """Metrics of real against real: mean, and the limit beyond which a value is an alarm."""

    mean: dict[str, float]
    limit: dict[str, float]

    @classmethod
    def of(cls, draws: list[dict[str, float]]) -> "Usual":
        """One-sided prediction limits for one more draw; the false alarms are divided evenly between the metrics.

        The widest of three: Student's t; MIN_LIMIT_FACTOR times the worst draw; an exponential tail through the worst
        draws (for exponentially distributed values, the first two give three times too many false alarms).
        """
        rate = FALSE_ALARM_RATE / len(draws[0])
        reach = t_quantile(len(draws) - 1, 1 - rate) * sqrt(1 + 1 / len(draws))
        columns = {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
        mean = {name: float(column.mean()) for name, column in columns.items()}
        limit: dict[str, float] = {}
        for name, column in columns.items():
            sign = 1 if METRICS[name].better == "lower" else -1
            worse = np.sort(sign * (column - mean[name]))
            start = worse[round((1 - TAIL_FRACTION) * len(worse)) - 1 :]
            tail = start[0] + log(TAIL_FRACTION / rate) * float((start[1:] - start[0]).mean())
            farthest = MIN_LIMIT_FACTOR * float(worse[-1])
            limit[name] = mean[name] + sign * max(reach * float(column.std(ddof=1)), farthest, tail)
        return cls(mean, limit)

    def alarms(self, values: dict[str, float]) -> tuple[str, ...]:
        """Names of the metrics that are worse than usual."""
        signs = {name: 1 if METRICS[name].better == "lower" else -1 for name in self.mean}
        return tuple(name for name, sign in signs.items() if sign * values[name] > sign * self.limit[name])


class Split(NamedTuple):
    """Disjoint row numbers of the pool."""

    sample: np.ndarray  # [n]
    reference: np.ndarray  # [m]
    spare: np.ndarray


def check_sensitivity(pool: Pictures, extract: Extract, n: int, measure: Measure, seed: int = 0) -> SensitivityReport:
    """pool: real pictures or points with labels, at least 2 n of them; n: as many as the study generates."""
    if len(pool) < 2 * n:
        raise ValueError(f"{len(pool)} real samples to check metrics at n = {n}: pass at least {2 * n}")
    if len(np.unique(pool.labels)) < 2:
        raise ValueError("the faults need labels of at least two classes: pass labelled real data")
    check = _Check(pool, extract, n, np.random.default_rng(seed), measure)
    usual = check.usual(check.features)
    clean = [usual.alarms(check.values(check.features, check.split())) for _ in range(CLEAN_REPETITIONS)]
    return SensitivityReport(
        findings=tuple(check.findings(usual)),
        resolving_power={name: abs(usual.limit[name] - usual.mean[name]) for name in usual.mean},
        usual=usual.mean,
        clean_alarms=sum(bool(alarms) for alarms in clean),
        clean_repetitions=CLEAN_REPETITIONS,
        n=n,
        n_real=len(check.split().reference),
    )


@dataclass
class _Check:
    """Real data, in which faults are seeded."""

    pool: Pictures
    extract: Extract
    n: int
    rng: np.random.Generator
    measure: Measure

    def __post_init__(self) -> None:
        self.features = self.extract(self.pool.images)

    def split(self) -> Split:
        order = self.rng.permutation(len(self.pool))
        spare = min(ceil(SPARE_FRACTION * self.n), len(self.pool) - 2 * self.n)
        return Split(*np.split(order, [self.n, len(order) - spare]))

    def values(self, features: np.ndarray, split: Split) -> dict[str, float]:
        return self.measure(features[split.sample], features[split.reference])

    def usual(self, features: np.ndarray) -> Usual:
        return Usual.of([self.values(features, self.split()) for _ in range(DRAWS)])

    def findings(self, usual: Usual) -> list[Finding]:
        splits = [self.split() for _ in range(FAULT_SPLITS)]
        draws = [self._faulty(split) for split in splits]
        faulty = {fault: _mean([draw[fault] for draw in draws]) for fault in draws[0]}
        some_classes = faulty.pop(SOME_CLASSES)
        alarms = {fault: usual.alarms(values) for fault, values in faulty.items()}
        alarms[HALF] = (*_card_alarm(self.n, len(splits[0].reference)), *alarms[HALF])
        alarms["precision and recall swapped"] = _swap_alarm(some_classes, usual)
        if self.pool.images.ndim == 4:
            smooth, boxes = (self._through_half_size(kind) for kind in (Image.Resampling.LANCZOS, Image.Resampling.BOX))
            resized = _mean([self.measure(boxes[split.sample], smooth[split.reference]) for split in splits])
            alarms[RESIZE] = self.usual(smooth).alarms(resized)
        return [Finding(fault, bool(by), by) for fault, by in alarms.items()]

    def _faulty(self, split: Split) -> dict[str, dict[str, float]]:
        """Values with each fault on one split."""
        images, features = self.pool.images[split.sample], self.features[split.sample]
        real = self.features[split.reference]
        classes = np.unique(self.pool.labels)
        some = np.isin(self.pool.labels, classes[: len(classes) // 2])
        return {
            "collapse to one image": self.measure(self.extract(np.repeat(images[:1], self.n, axis=0)), real),
            "one class dropped": self.measure(self.features[self._without_a_class(split)], real),
            "noise added": self.measure(self.extract(_noisy(images, self.pool.images, self.rng)), real),
            "wrong reference": self.measure(features, real[some[split.reference]]),
            HALF: self.measure(features[: self.n // 2], real),
            SOME_CLASSES: self.measure(features[some[split.sample]], real),
        }

    def _without_a_class(self, split: Split) -> np.ndarray:
        """n rows outside the reference, none of the commonest class."""
        classes, counts = np.unique(self.pool.labels, return_counts=True)
        candidates = np.concatenate([split.sample, split.spare])
        return candidates[self.pool.labels[candidates] != classes[counts.argmax()]][: self.n]

    def _through_half_size(self, kind: Image.Resampling) -> np.ndarray:
        """Features of all pictures at half the size by the filter, enlarged bilinearly."""
        height, width = self.pool.images.shape[2:]
        small = max(1, width // 2), max(1, height // 2)
        channels = (Image.fromarray(channel) for channel in self.pool.images.reshape(-1, height, width))
        back = (channel.resize(small, kind).resize((width, height), Image.Resampling.BILINEAR) for channel in channels)
        return self.extract(np.stack([np.asarray(channel) for channel in back]).reshape(self.pool.images.shape))


def _mean(draws: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}


def _swap_alarm(values: dict[str, float], usual: Usual) -> tuple[str, ...]:
    """values: of samples of half the classes. They lie among the real ones but cover half: only recall must fall."""
    swapped = values | {"precision": values["recall"], "recall": values["precision"]}
    only_precision = [
        "precision" in alarms and "recall" not in alarms for alarms in (usual.alarms(swapped), usual.alarms(values))
    ]
    return ("precision", "recall") if only_precision == [True, False] else ()


def _card_alarm(n: int, n_real: int) -> tuple[str, ...]:
    """Whether cards refuse to compare values at n and at n / 2."""
    card = Card("fd", "", "", "", "", n, n_real, "", "")
    try:
        same_measure([card, replace(card, n_generated=n // 2)])
    except ValueError:
        return ("card",)
    return ()


def _noisy(images: np.ndarray, pool: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = NOISE_SCALE * float(pool.std()) * rng.standard_normal(images.shape)
    if images.dtype == np.uint8:
        return np.rint(images + noise).clip(0, 255).astype(np.uint8)
    return (images + noise).astype(images.dtype)
