"""The metrics' immune system: faults with known answers, run on a study's own real data through its own extractor.

A metric raises the alarm when it is worse than real samples against other real ones ever are. Every seeded fault must
raise one, clean repetitions must not, and how far a value must move to be noticed is the resolving power.
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

SENSITIVITY_FILE = "immunity.json"  # what the stage leaves
DRAWS = 100  # real against real, to know what is usual
REPEATS = 3  # splits on which a fault is seeded: its mean effect must be beyond the limit of a single value
CLEAN = 20  # further ones, which ought to raise no alarm
FALSE_ALARMS = 0.01  # of all watched metrics together, per repetition
BEYOND = 1.3  # times the worst draw: the least a limit keeps from the mean
TAIL = 0.2  # of the draws, from which an exponential tail is fitted: distances have one
SPARE = 0.5  # of n: real samples in neither side, to replace those of a dropped class
NOISE = 0.5  # of the pixels' standard deviation

HALF = "half the n"
RESIZE = "box instead of antialiased resize"
SOME_CLASSES = "half of the classes"  # no fault of its own: what a swap of precision and recall is told by

Extract = Callable[[np.ndarray], np.ndarray]
Measure = Callable[[np.ndarray, np.ndarray], dict[str, float]]  # features of samples and of real ones; by metric


class Finding(NamedTuple):
    """One seeded fault."""

    fault: str
    detected: bool
    by: tuple[str, ...]  # metrics that raised the alarm, or "card"


@dataclass(frozen=True)
class SensitivityReport:
    """What the metrics of a study notice."""

    findings: tuple[Finding, ...]
    resolving_power: dict[str, float]  # smallest change for the worse that a single value shows at this n
    usual: dict[str, float]  # mean of each metric, real against real
    clean_alarms: int
    clean_repetitions: int
    n: int
    n_real: int

    @property
    def is_healthy(self) -> bool:
        return all(finding.detected for finding in self.findings) and self.clean_alarms <= self.clean_repetitions / 20


class Usual(NamedTuple):
    """Metrics of real against real: mean, and the limit beyond which a value is an alarm."""

    mean: dict[str, float]
    limit: dict[str, float]

    @classmethod
    def of(cls, draws: list[dict[str, float]]) -> "Usual":
        """One-sided prediction limits for one more draw, the false alarms shared out over the metrics.

        The widest of three: Student's t; well outside of all that was drawn; an exponential tail through the worst
        draws, as distances have it (of an exponential law, t and the worst draw alone let three times too many by).
        """
        share = FALSE_ALARMS / len(draws[0])
        reach = t_quantile(len(draws) - 1, 1 - share) * sqrt(1 + 1 / len(draws))
        columns = {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
        mean = {name: float(column.mean()) for name, column in columns.items()}
        limit: dict[str, float] = {}
        for name, column in columns.items():
            worse = 1 if METRICS[name].better == "lower" else -1
            off = np.sort(worse * (column - mean[name]))
            start = off[round((1 - TAIL) * len(off)) - 1 :]
            tail = start[0] + log(TAIL / share) * float((start[1:] - start[0]).mean())
            limit[name] = mean[name] + worse * max(reach * float(column.std(ddof=1)), BEYOND * float(off[-1]), tail)
        return cls(mean, limit)

    def alarms(self, values: dict[str, float]) -> tuple[str, ...]:
        """Names of the metrics that are worse than usual."""
        return tuple(
            name
            for name in self.mean
            if (values[name] > self.limit[name] if METRICS[name].better == "lower" else values[name] < self.limit[name])
        )


class Split(NamedTuple):
    """Disjoint row numbers of a pool."""

    sample: np.ndarray  # [n]
    reference: np.ndarray  # [m]
    spare: np.ndarray


def check_sensitivity(pool: Pictures, extract: Extract, n: int, measure: Measure, seed: int = 0) -> SensitivityReport:
    """pool: real pictures or points with labels, at least 2 n of them; n: as many as the study generates."""
    if len(pool) < 2 * n:
        raise ValueError(f"{len(pool)} real samples to check_sensitivity metrics at n = {n}: pass at least {2 * n}")
    if len(np.unique(pool.labels)) < 2:
        raise ValueError("the faults need labels of at least two classes: pass labelled real data")
    rng = np.random.default_rng(seed)
    patient = _Patient(pool, extract, n, rng, measure)
    usual = patient.usual(patient.features)
    clean = [usual.alarms(patient.measured(patient.features, patient.split())) for _ in range(CLEAN)]
    return SensitivityReport(
        findings=tuple(patient.findings(usual)),
        resolving_power={name: abs(usual.limit[name] - usual.mean[name]) for name in usual.mean},
        usual=usual.mean,
        clean_alarms=sum(bool(alarms) for alarms in clean),
        clean_repetitions=CLEAN,
        n=n,
        n_real=len(patient.split().reference),
    )


@dataclass
class _Patient:
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
        spare = min(ceil(SPARE * self.n), len(self.pool) - 2 * self.n)
        return Split(*np.split(order, [self.n, len(order) - spare]))

    def measured(self, features: np.ndarray, split: Split) -> dict[str, float]:
        return self.measure(features[split.sample], features[split.reference])

    def usual(self, features: np.ndarray) -> Usual:
        return Usual.of([self.measured(features, self.split()) for _ in range(DRAWS)])

    def findings(self, usual: Usual) -> list[Finding]:
        splits = [self.split() for _ in range(REPEATS)]
        faulty = _means([self._faulty(split) for split in splits])
        findings = [
            Finding(fault, bool(by), by) for fault, by in _alarms(faulty, usual).items() if fault != SOME_CLASSES
        ]
        findings.append(_swapped(faulty[SOME_CLASSES], usual))
        card = _refusal(self.n, len(splits[0].reference))
        findings = [_with_card(finding, card) if finding.fault == HALF else finding for finding in findings]
        if self.pool.images.ndim != 4:
            return findings
        smooth, boxes = (self._through_half_size(kind) for kind in (Image.Resampling.LANCZOS, Image.Resampling.BOX))
        resized = _means([{RESIZE: self.measure(boxes[split.sample], smooth[split.reference])} for split in splits])
        return findings + [Finding(RESIZE, bool(by), by) for by in _alarms(resized, self.usual(smooth)).values()]

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
        """Features of all pictures made half as large by the filter, and enlarged in one way."""
        height, width = self.pool.images.shape[2:]
        small = max(1, width // 2), max(1, height // 2)
        channels = (Image.fromarray(channel) for channel in self.pool.images.reshape(-1, height, width))
        back = (channel.resize(small, kind).resize((width, height), Image.Resampling.BILINEAR) for channel in channels)
        return self.extract(np.stack([np.asarray(channel) for channel in back]).reshape(self.pool.images.shape))


def _means(draws: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        fault: {name: float(np.mean([draw[fault][name] for draw in draws])) for name in draws[0][fault]}
        for fault in draws[0]
    }


def _alarms(faulty: dict[str, dict[str, float]], usual: Usual) -> dict[str, tuple[str, ...]]:
    return {fault: usual.alarms(found) for fault, found in faulty.items()}


def _swapped(right: dict[str, float], usual: Usual) -> Finding:
    """Samples of half the classes lie among the real ones and cover half of them: recall alone must fall."""
    wrong = right | {"precision": right["recall"], "recall": right["precision"]}
    told_apart = [_is_swapped(usual.alarms(found)) for found in (wrong, right)] == [True, False]
    return Finding("precision and recall swapped", told_apart, ("precision", "recall") if told_apart else ())


def _is_swapped(alarms: tuple[str, ...]) -> bool:
    return "precision" in alarms and "recall" not in alarms


def _with_card(finding: Finding, card: tuple[str, ...]) -> Finding:
    return Finding(finding.fault, finding.detected or bool(card), card + finding.by)


def _noisy(images: np.ndarray, pool: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = NOISE * float(pool.std()) * rng.standard_normal(images.shape)
    if images.dtype == np.uint8:
        return np.rint(images + noise).clip(0, 255).astype(np.uint8)
    return (images + noise).astype(images.dtype)


def _refusal(n: int, n_real: int) -> tuple[str, ...]:
    """What a comparison says of values at n and at half of it."""
    whole = Card("fd", "", "", "", "", n, n_real, "", "")
    try:
        same_measure([whole, replace(whole, n_generated=n // 2)])
    except ValueError:
        return ("card",)
    return ()
