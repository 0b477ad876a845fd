"""The calls of a study or a sweep before they run: names, keys, stored results, and earlier costs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pipeline.config.study import Study
from pipeline.dag.graph import Call
from pipeline.dag.run import external_inputs
from pipeline.data.artifacts import Manifest, digest_of
from pipeline.store.store import Store


class Planned(NamedTuple):
    """A call of a study or of trials of a sweep, before it runs."""

    study: Study
    call: Call
    made_of: dict[str, str]  # the names, by `identities`, of the calls that make its inputs
    key: str | None  # None while an input is missing
    manifest: Manifest | None  # of the stored result


class Cost(NamedTuple):
    seconds: float
    peak_mib: int


class Part(NamedTuple):
    """A part of a stage's work that a command of its own leaves in the store, before or beside other parts."""

    name: str
    command: str
    needs: frozenset[Path]  # outs of stages
    after: frozenset[str]  # names of parts
    cost: Cost


def identities(study: Study, calls: list[Call]) -> dict[Path, str]:
    """By out: a name of the call's result that follows from settings and code alone."""
    names: dict[Path, str] = {}
    for call in calls:
        inputs = {role: names[path] for role, path in call.made.items()}
        inputs |= {role: artifact.digest for role, artifact in external_inputs(study, call).items()}
        content = {"stage": call.stage, "config": call.config, "modules": call.modules, "inputs": inputs}
        names[call.out] = digest_of(content)
    return names


def planned_calls(chains: Iterable[tuple[Study, list[Call]]], store: Store) -> dict[str, Planned]:
    """Every call of these chains once, by its name (see `identities`), after its inputs."""
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
    """inputs: results of other calls; None for one that is missing."""
    digests = {role: manifest.digest for role, manifest in inputs.items() if manifest is not None}
    digests |= {role: artifact.digest for role, artifact in external_inputs(study, call).items()}
    return call.key(study.root, digests) if len(digests) == len(call.inputs) else None


def past_costs(store: Store) -> dict[tuple[str, ...], Cost]:
    """Costs of unresumed computations in the ledger: the last one by (stage, entry), the median by (stage,).

    An entry's own computations count before those of sweeps, whose settings differ.
    """
    notes = [note for note in store.ledger() if note["event"] == "computed" and not note.get("resumed")]
    notes.sort(key=lambda note: ("sweep" not in note, note["time"]))
    costs: dict[tuple[str, ...], Cost] = {
        (note["stage"], note["name"]): Cost(float(note["seconds"]), int(note["peak_memory_mib"])) for note in notes
    }
    by_stage = {stage: [cost for (other, _), cost in costs.items() if other == stage] for stage, _ in costs}
    return costs | {(stage,): Cost(*map(median, zip(*of_stage))) for stage, of_stage in by_stage.items()}
