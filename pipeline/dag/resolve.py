"""The calls of a study or a sweep before they run: names, keys, stored results, and what they cost before."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pipeline.config.study import Study
from pipeline.dag.graph import Call
from pipeline.dag.run import outside
from pipeline.data.artifacts import Manifest, digest_of
from pipeline.store.store import Store


class Planned(NamedTuple):
    """A call of the study itself, or of one or more trials of a sweep."""

    study: Study
    call: Call
    made_of: dict[str, str]  # the names, by `identities`, of the calls that make its inputs
    key: str | None  # None until its inputs are there
    manifest: Manifest | None  # of its result, if that is stored


class Cost(NamedTuple):
    seconds: float
    peak_mib: int


def identities(study: Study, calls: list[Call]) -> dict[Path, str]:
    """By out: a name of what the call makes that follows from settings and code alone."""
    found: dict[Path, str] = {}
    for call in calls:
        inputs = {role: found[path] for role, path in call.made.items()}
        inputs |= {role: artifact.digest for role, artifact in outside(study, call).items()}
        content = {"stage": call.stage, "config": call.config, "modules": call.modules, "inputs": inputs}
        found[call.out] = digest_of(content)
    return found


def planned_calls(chains: Iterable[tuple[Study, list[Call]]], store: Store) -> dict[str, Planned]:
    """By name (see `identities`) every call of these chains, once, each after its inputs."""
    planned: dict[str, Planned] = {}
    for study, calls in chains:
        names = identities(study, calls)
        for call in calls:
            if names[call.out] in planned:
                continue
            made_of = {role: names[path] for role, path in call.made.items()}
            key = key_if_known(study, call, {role: planned[name].manifest for role, name in made_of.items()})
            manifest = None if key is None else store.manifest(key)
            planned[names[call.out]] = Planned(study, call, made_of, key, manifest)
    return planned


def key_if_known(study: Study, call: Call, inputs: Mapping[str, Manifest | None]) -> str | None:
    """inputs: what other calls made, as far as it is there."""
    digests = {role: manifest.digest for role, manifest in inputs.items() if manifest is not None}
    digests |= {role: artifact.digest for role, artifact in outside(study, call).items()}
    return call.key(study.root, digests) if len(digests) == len(call.inputs) else None


def past_costs(store: Store) -> dict[tuple[str, ...], Cost]:
    """Of computations in the ledger that were not resumed: by (stage, entry) the last, by (stage,) the median."""
    notes = [note for note in store.ledger() if note["event"] == "computed" and not note["resumed"]]
    notes.sort(key=lambda note: note["time"])
    costs = {
        (note["stage"], note["name"]): Cost(float(note["seconds"]), int(note["peak_memory_mib"])) for note in notes
    }
    by_stage = {stage: [cost for (of, _), cost in costs.items() if of == stage] for stage, _ in costs}
    usual: dict[tuple[str, ...], Cost] = {(stage,): Cost(*map(median, zip(*of))) for stage, of in by_stage.items()}
    return costs | usual
