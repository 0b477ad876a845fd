"""Entries that differ only in the training seed are one method: its values, and its difference from another."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from pipeline.config.build import Block, pick
from pipeline.config.entries import AutoguidedEntry, ClassifierEntry, GuideEntry, RunEntry
from pipeline.config.study import Study
from pipeline.dag.graph import STAGES
from pipeline.dag.lineage import OTHER, Provenance, provenance
from pipeline.data.artifacts import canonical, read_artifact
from pipeline.errors import UserError
from pipeline.metrics.card import METRICS, METRICS_FILE
from pipeline.metrics.intervals import by_seed_text, interval, paired, scope


class Repetition(NamedTuple):
    """Metrics of one trained network: an entry of params.yaml, or a member of a stack with one training seed."""

    entry: str
    train_seed: int
    sets: tuple[str, ...]  # a set of samples per sampling seed
    counts: dict[str, float]
    metrics: dict[str, dict[str, Any]]  # by card id: metric, card, values (one per set), real_vs_real, warnings
    provenance: Provenance


class Arm(NamedTuple):
    """A method with its settings, guided or not, trained with one or more seeds."""

    run: str  # of the first repetition
    guidance: str  # "none", or the first repetition's guided entry
    repetitions: tuple[Repetition, ...]  # one per training seed

    @property
    def name(self) -> str:
        return self.run if self.guidance == "none" else self.guidance

    @property
    def warnings(self) -> set[str]:
        """Of results that the present code does not make."""
        return {one.provenance.warning for one in self.repetitions if one.provenance.warning}


class Summary(NamedTuple):
    """One metric of an arm; the fields are columns of the tables."""

    value: float
    ci_low: float  # interval over training seeds' means if there are several, else over sampling seeds
    ci_high: float
    sampling_spread: float | None  # standard deviation between sampling seeds of one network; None: one set each
    train_seeds: int
    sample_seeds: int


class Difference(NamedTuple):
    """One metric of arm a minus that of arm b, over the seeds they share; the fields are columns of the tables."""

    metric: str
    card: str  # as text
    value_a: float
    value_b: float
    difference: float
    ci_low: float
    ci_high: float
    verdict: str  # on a
    p_value: float  # of no difference; not corrected for further comparisons
    scope: str  # of the verdict: these checkpoints, or the method
    train_seeds: int
    sample_seeds: int


def entries_on(study: Study, dataset: str) -> list[str]:
    """Names of runs on a dataset, each followed by its guided entries."""
    pick(study.datasets, dataset, "dataset")
    runs = [name for name, run in study.runs.items() if study.measured_as(run.dataset) == dataset]
    return [name for run in runs for name in (run, *(g for g, entry in study.guided.items() if entry.run == run))]


def repetitions(study: Study, name: str) -> list[str]:
    """The entry and all that differ from it only in the training seed, one per seed, in the order of params.yaml."""
    alike = [other for other in [*study.runs, *study.guided] if _identity(study, other) == _identity(study, name)]
    by_seed = {_train_seed(study, other): other for other in [*reversed(alike), name]}
    return [other for other in alike if other in by_seed.values()]


def method_names(study: Study, entries: Iterable[str]) -> dict[str, str]:
    """Names to show, by entry: the parts that the names of all its repetitions share, "edm-dg" of edm-1-dg, edm-2-dg.

    Methods that would have the same name keep that of their first entry.
    """
    names: dict[str, str] = {}
    methods = dict.fromkeys(tuple(repetitions(study, entry)) for entry in entries)
    for alike in methods:
        shared = [parts[0] for parts in zip(*(entry.split("-") for entry in alike)) if len({*parts}) == 1]
        name = "-".join(shared)
        names |= dict.fromkeys(alike, name if name and name not in names.values() else alike[0])
    return names


def gather(study: Study, entries: Iterable[str]) -> list[Arm]:
    """Arms of the named entries, which must be evaluated.

    An entry that repeats a training seed starts a new arm; one of another version of the code is an arm of its own.
    """
    arms: dict[tuple[str, int, str], list[Repetition]] = {}
    uses: Counter[tuple[str, int]] = Counter()
    for name in entries:
        identity, seed = _identity(study, name), _train_seed(study, name)
        call = STAGES["evaluate"].call(study, name)
        content = json.loads((read_artifact(call.out).path / METRICS_FILE).read_text())
        own = repetition(name, seed, content, provenance(study, call))
        version = name if own.provenance.version == OTHER else own.provenance.version
        arms.setdefault((identity, uses[identity, seed], version), []).append(own)
        uses[identity, seed] += 1
    return [_arm(study, alike) for alike in arms.values()]


def repetition(entry: str, train_seed: int, content: Mapping[str, Any], origin: Provenance) -> Repetition:
    """content: of metrics.json, for one trained network."""
    metrics = {metric["card"]["id"]: metric for metric in content["metrics"]}
    return Repetition(entry, train_seed, tuple(content["sets"]), content["counts"], metrics, origin)


def summarise(arm: Arm, card: str) -> Summary:
    """card: its id, as in `Repetition.metrics`."""
    values = [one.metrics[card]["values"] for one in arm.repetitions]
    sets = min(len(of_seed) for of_seed in values)
    spread = sqrt(np.mean([np.var(of_seed, ddof=1) for of_seed in values])) if sets > 1 else None
    mean, low, high, _ = interval([float(np.mean(of_seed)) for of_seed in values] if len(values) > 1 else values[0])
    return Summary(mean, low, high, spread, len(values), sets)


def metric_columns(arm: Arm, card: str) -> dict[str, Any]:
    """A table's columns for one metric of an arm."""
    metric = arm.repetitions[0].metrics[card]
    described = {name: metric["card"][name] for name in ("n_generated", "n_real")} | {"card": metric["card"]["text"]}
    own = {name: metric[name] for name in ("metric", "real_vs_real")}
    by_seed = {one.train_seed: float(np.mean(one.metrics[card]["values"])) for one in arm.repetitions}
    return own | summarise(arm, card)._asdict() | described | {"by_seed": by_seed_text(by_seed)}


def differences(a: Arm, b: Arm) -> Iterator[Difference]:
    """Metric by metric, paired by training seed and by sampling seed.

    With several training seeds the interval is over them: sampling seeds of one network are no independent trainings.
    """
    pairs = _pairs(a, b)
    sets = [name for name in pairs[0][0].sets if all(name in side.sets for pair in pairs for side in pair)]
    if not sets:
        raise UserError(f"{a.name} and {b.name} share no set of samples: sample both again (dvc repro)")
    for id, metric in pairs[0][0].metrics.items():
        card = metric["card"]["text"]
        if any(id not in side.metrics for pair in pairs for side in pair):
            raise UserError(f"{a.name}: {card} is not how {b.name} was measured: evaluate both again (dvc repro)")
        by_side = [[_values(one, id, sets) for one in side] for side in zip(*pairs)]
        if len(pairs) > 1:
            values_a, values_b = ([float(np.mean(values)) for values in side] for side in by_side)
        else:
            (values_a,), (values_b,) = by_side
        compared = paired(values_a, values_b, METRICS[metric["metric"]].better)
        means = float(np.mean(values_a)), float(np.mean(values_b))
        seeds = scope(len(pairs)), len(pairs), len(sets)
        yield Difference(metric["metric"], card, *means, *compared[:4], compared.p, *seeds)


def _pairs(a: Arm, b: Arm) -> list[tuple[Repetition, Repetition]]:
    others = {repetition.train_seed: repetition for repetition in b.repetitions}
    pairs = [(one, others[one.train_seed]) for one in a.repetitions if one.train_seed in others]
    if not pairs:
        seeds = [[repetition.train_seed for repetition in arm.repetitions] for arm in (a, b)]
        raise UserError(
            f"{a.name} was trained with seeds {seeds[0]}, {b.name} with {seeds[1]}: train both with a seed in common"
        )
    return pairs


def _values(side: Repetition, id: str, sets: list[str]) -> list[float]:
    of_set = dict(zip(side.sets, side.metrics[id]["values"]))
    return [of_set[name] for name in sets]


def _arm(study: Study, alike: list[Repetition]) -> Arm:
    first = alike[0].entry
    for other in alike[1:]:
        if other.metrics.keys() != alike[0].metrics.keys():
            raise UserError(f"{first} and {other.entry} were measured differently: evaluate both again (dvc repro)")
    if first in study.guided:
        return Arm(study.guided[first].run, first, tuple(alike))
    return Arm(first, "none", tuple(alike))


def _train_seed(study: Study, name: str) -> int:
    """Of a guided entry: that of the network it guides."""
    run = study.guided[name].run if name in study.guided else name
    return pick(study.runs, run, "run or guided entry").train.get("seed", 0)


def _identity(study: Study, name: str) -> str:
    """All settings of an entry except names and training seeds."""
    if name not in study.guided:
        run = pick(study.runs, name, "run or guided entry")
        return canonical({"dataset": run.dataset, "sample": run.sample} | _training(run))
    guided = study.guided[name]
    guides = [_guide(study, use["guide"]) | {"use": _without(use, "guide")} for use in guided.guides]
    own = {"run": _identity(study, guided.run), "guides": guides, "sample": guided.sample}
    if isinstance(guided, AutoguidedEntry):
        own["weaker"] = {"run": _identity(study, guided.weaker["run"]), "use": _without(guided.weaker, "run")}
    return canonical(own)


def _guide(study: Study, name: str) -> Block:
    """The same for a guide or classifier."""
    if name in study.classifiers:
        classifier = study.classifiers[name]
        return {"dataset": classifier.dataset} | _training(classifier)
    guide = study.guides[name]
    trunk = {} if guide.trunk is None else {"trunk": _guide(study, guide.trunk)}
    return {"run": _identity(study, guide.run)} | trunk | _training(guide)


def _training(entry: RunEntry | ClassifierEntry | GuideEntry) -> Block:
    return {"method": entry.method, "model": entry.model, "train": _without(entry.train, "seed")}


def _without(block: Block, key: str) -> Block:
    return {name: value for name, value in block.items() if name != key}
