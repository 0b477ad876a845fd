"""Entries that differ in nothing but the training seed are one method: its values, and what tells it from another."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from pipeline.config.build import Block, pick
from pipeline.config.study import Study
from pipeline.dag.graph import STAGES
from pipeline.dag.lineage import OTHER, Provenance, provenance
from pipeline.data.artifacts import canonical, read_artifact
from pipeline.errors import UserError
from pipeline.metrics.card import METRICS, METRICS_FILE
from pipeline.metrics.intervals import Comparison, Interval, interval, paired, scope


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

    run: str  # the first one's name
    guidance: str  # "none", or the first guided entry's name
    repetitions: tuple[Repetition, ...]  # one per training seed

    @property
    def name(self) -> str:
        return self.run if self.guidance == "none" else self.guidance

    @property
    def warnings(self) -> set[str]:
        """Of results that the present code does not make."""
        return {found.provenance.warning for found in self.repetitions if found.provenance.warning}


class Summary(NamedTuple):
    """What is known of one metric of an arm."""

    interval: Interval  # over training seeds' means if there are several, else over sampling seeds
    sampling_spread: float | None  # standard deviation between sampling seeds of one network; None: one set each
    train_seeds: int
    sample_seeds: int


class Difference(NamedTuple):
    """One metric of arm a less that of arm b, over what they share."""

    metric: str
    card: dict[str, Any]
    a: float
    b: float
    comparison: Comparison
    scope: str  # of the verdict: this checkpoint, or the method
    train_seeds: int
    sample_seeds: int


def entries_on(study: Study, dataset: str) -> list[str]:
    """Names of runs on a dataset, each before what guides it."""
    pick(study.datasets, dataset, "dataset")
    runs = [name for name, run in study.runs.items() if run.dataset == dataset]
    return [name for run in runs for name in (run, *(g for g, entry in study.guided.items() if entry.run == run))]


def repetitions(study: Study, name: str) -> list[str]:
    """The entry and all that differ from it in the training seed alone, one per seed, in the order of params.yaml."""
    alike = [other for other in [*study.runs, *study.guided] if _identity(study, other) == _identity(study, name)]
    of_seed = {_train_seed(study, other): other for other in [*reversed(alike), name]}
    return [other for other in alike if other in of_seed.values()]


def gather(study: Study, entries: Iterable[str]) -> list[Arm]:
    """Arms of the named entries, which must be evaluated. An entry that repeats a seed is no repetition: a new arm.

    Nor is one of another version of the code: it stands alone.
    """
    found: dict[tuple[str, int, str], list[Repetition]] = {}
    seen: Counter[tuple[str, int]] = Counter()
    for name in entries:
        identity = _identity(study, name)
        times = seen[identity, _train_seed(study, name)]
        seen[identity, _train_seed(study, name)] += 1
        own = _repetition(study, name)
        version = name if own.provenance.version == OTHER else own.provenance.version
        found.setdefault((identity, times, version), []).append(own)
    return [_arm(study, alike) for alike in found.values()]


def repetition(entry: str, train_seed: int, content: Mapping[str, Any], origin: Provenance) -> Repetition:
    """content: of metrics.json, for one trained network."""
    metrics = {metric["card"]["id"]: metric for metric in content["metrics"]}
    return Repetition(entry, train_seed, tuple(content["sets"]), content["counts"], metrics, origin)


def summarise(arm: Arm, card: str) -> Summary:
    """card: its id, as in `Repetition.metrics`."""
    values = [repetition.metrics[card]["values"] for repetition in arm.repetitions]
    sets = min(len(found) for found in values)
    spread = sqrt(np.mean([np.var(found, ddof=1) for found in values])) if sets > 1 else None
    over = [float(np.mean(found)) for found in values] if len(values) > 1 else values[0]
    return Summary(interval(over), spread, len(values), sets)


def differences(a: Arm, b: Arm) -> Iterator[Difference]:
    """Metric by metric, each training seed with its own like and each sampling seed with its own like.

    With several training seeds the interval is over them: sampling seeds of one network are no independent trainings.
    """
    pairs = _pairs(a, b)
    sets = [name for name in pairs[0][0].sets if all(name in side.sets for pair in pairs for side in pair)]
    if not sets:
        raise UserError(f"{a.name} and {b.name} share no set of samples: sample both again (dvc repro)")
    for id, metric in pairs[0][0].metrics.items():
        if any(id not in side.metrics for pair in pairs for side in pair):
            raise UserError(
                f"{a.name}: {metric['card']['text']} is not how {b.name} was measured: evaluate both again (dvc repro)"
            )
        ours, theirs = ([_values(side, id, sets) for side in sides] for sides in zip(*pairs))
        several = len(pairs) > 1
        per_seed = [[float(np.mean(values)) for values in side] if several else side[0] for side in (ours, theirs)]
        compared = paired(per_seed[0], per_seed[1], METRICS[metric["metric"]].better)
        yield Difference(
            metric["metric"],
            metric["card"],
            float(np.mean(per_seed[0])),
            float(np.mean(per_seed[1])),
            compared,
            scope(len(pairs)),
            len(pairs),
            len(sets),
        )


def _pairs(a: Arm, b: Arm) -> list[tuple[Repetition, Repetition]]:
    others = {repetition.train_seed: repetition for repetition in b.repetitions}
    pairs = [(ours, others[ours.train_seed]) for ours in a.repetitions if ours.train_seed in others]
    if not pairs:
        seeds = [[repetition.train_seed for repetition in arm.repetitions] for arm in (a, b)]
        raise UserError(
            f"{a.name} was trained with seeds {seeds[0]}, {b.name} with {seeds[1]}: train both with a seed in common"
        )
    return pairs


def _values(side: Repetition, id: str, sets: list[str]) -> list[float]:
    of_set = dict(zip(side.sets, side.metrics[id]["values"]))
    return [of_set[name] for name in sets]


def _arm(study: Study, found: list[Repetition]) -> Arm:
    first = found[0].entry
    guided = first in study.guided
    run = study.guided[first].run if guided else first
    for other in found[1:]:
        if other.metrics.keys() != found[0].metrics.keys():
            raise UserError(
                f"{first} and {other.entry} were measured in different ways: evaluate both again (dvc repro)"
            )
    return Arm(run, first if guided else "none", tuple(found))


def _repetition(study: Study, name: str) -> Repetition:
    artifact = read_artifact(study.out / "evaluate" / name)
    content = json.loads((artifact.path / METRICS_FILE).read_text())
    return repetition(name, _train_seed(study, name), content, provenance(study, STAGES["evaluate"].call(study, name)))


def _train_seed(study: Study, name: str) -> int:
    """A guided entry's is that of the network it guides."""
    run = study.guided[name].run if name in study.guided else name
    return pick(study.runs, run, "run or guided entry").train.get("seed", 0)


def _identity(study: Study, name: str) -> str:
    """Everything that params.yaml says of an entry, but names and training seeds."""
    if name not in study.guided:
        run = pick(study.runs, name, "run or guided entry")
        return canonical(
            {"dataset": run.dataset, "method": run.method, "model": run.model, "train": _without_seed(run.train)}
            | {"sample": run.sample}
        )
    guided = study.guided[name]
    guides = [
        _teaching(study, use["guide"]) | {"use": {k: v for k, v in use.items() if k != "guide"}}
        for use in guided.guides
    ]
    return canonical({"run": _identity(study, guided.run), "guides": guides, "sample": guided.sample})


def _teaching(study: Study, name: str) -> Block:
    """The same of a guide or classifier."""
    source: Block
    if name in study.classifiers:
        taught = study.classifiers[name]
        source = {"dataset": taught.dataset}
    else:
        taught = study.guides[name]
        source = {"run": _identity(study, taught.run)}
        if taught.trunk is not None:
            source["trunk"] = _teaching(study, taught.trunk)
    return source | {"method": taught.method, "model": taught.model, "train": _without_seed(taught.train)}


def _without_seed(train: Block) -> Block:
    return {name: value for name, value in train.items() if name != "seed"}
