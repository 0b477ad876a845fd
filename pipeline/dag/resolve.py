"""The keys of a chain of calls as far as their inputs exist, and what is in the store already."""

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
    """A call of one or more trials, or of the study itself."""

    study: Study
    call: Call
    made_of: dict[str, str]  # the names, by `identities`, of the calls that its inputs are made by
    key: str | None  # None until its inputs are there
    manifest: Manifest | None  # of its result, if that is there


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


def usual_seconds(store: Store) -> dict[tuple[str, ...], float]:
    """Median seconds of what was computed, by stage, and by stage and entry."""
    seen: dict[tuple[str, ...], list[float]] = {}
    for note in store.ledger():
        if note["event"] == "computed":
            for kind in ((note["stage"],), (note["stage"], note["name"])):
                seen.setdefault(kind, []).append(note["seconds"])
    return {kind: median(values) for kind, values in seen.items()}


def expected_seconds(seconds: Mapping[tuple[str, ...], float], call: Call) -> float | None:
    return seconds.get((call.stage, call.name), seconds.get((call.stage,)))
