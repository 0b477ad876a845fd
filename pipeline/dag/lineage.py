"""The provenance of a number: the results it was computed from, with code, settings, inputs, seeds and cost."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.study import Study
from pipeline.dag.code_version import code_version
from pipeline.dag.graph import Call, chain
from pipeline.dag.run import external_inputs
from pipeline.dag.usage import MACHINE
from pipeline.data.artifacts import MANIFEST, Manifest, parse_manifest
from pipeline.errors import ArtifactError, UserError
from pipeline.store.open import open_store
from pipeline.store.store import Store

CIRCUMSTANCES = (
    "commit", "mlflow_run", "time", "host", "backend", *MACHINE, "seconds", "cpu_seconds", "sweep", "trial",
)  # fmt: skip  # of the ledger
PRESENT, OTHER, UNKNOWN = "present", "other", "unknown"


class Provenance(NamedTuple):
    version: str
    warning: str  # empty for PRESENT


class Link(NamedTuple):
    """One result of a chain."""

    call: Call
    manifest: Manifest
    key: str | None  # None: this store never had it
    version: str  # PRESENT: of the present code, settings and inputs; OTHER: of others; UNKNOWN to this store
    code: str | None  # version of the present code, if that made the result
    ledger: dict[str, Any]  # the note on its computation; empty if unknown

    @property
    def label(self) -> str:
        return f"{self.call.stage} {self.call.name}"

    def json(self) -> dict[str, Any]:
        sweep = self.ledger.get("sweep")
        return {
            "stage": self.call.stage,
            "name": self.call.name,
            "command": f"trilemma sweep {sweep}" if sweep else f"trilemma {self.call.verb} {self.call.name}",
            "key": self.key,
            "version": self.version,
            "code": self.code,
            "parameters": self.manifest.config,
            "inputs": self.manifest.inputs,
            "seeds": self.manifest.seeds,
            "digest": self.manifest.digest,
            "files": {name: entry.sha256 for name, entry in self.manifest.files.items()},
            **{name: self.ledger.get(name) for name in CIRCUMSTANCES},
        }


def chain_links(study: Study, last: Call, published: bool = True, store: Store | None = None) -> list[Link]:
    """The results that the result of `last` was computed from, and itself.

    published: those in out/; else those that the store has for the present code, as for a trial of a sweep.
    store: the study's; pass one for many chains, because it searches for results of other versions once.
    """
    store, links = store or open_store(study), dict[Path, Link]()
    for call in chain(study, last.stage, last.name):
        inputs = {role: links[path].manifest.digest for role, path in call.made.items()}
        inputs |= {role: artifact.digest for role, artifact in external_inputs(study, call).items()}
        key = call.key(study.root, inputs)
        manifest = _published(call.out) if published else store.manifest(key)
        if manifest is None:
            raise ArtifactError(f"{call.stage} {call.name}: not in the store for the present code: compute it again")
        links[call.out] = _link(study, store, call, manifest, key)
    return list(links.values())


def provenance(study: Study, last: Call, store: Store | None = None) -> Provenance:
    """Whether a result is of the present code, settings and inputs."""
    try:
        links = chain_links(study, last, store=store)
    except UserError:  # a missing result, or data outside the study, as where only its results were copied to
        return Provenance(UNKNOWN, "of unknown version: what it was computed from is not in out/")
    for kind, what in ((OTHER, "of another version of code, settings or inputs"), (UNKNOWN, "not known to this store")):
        if labels := [link.label for link in links if link.version == kind]:
            return Provenance(kind, f"{what}: {', '.join(labels)}")
    return Provenance(PRESENT, "")


def _link(study: Study, store: Store, call: Call, manifest: Manifest, key: str) -> Link:
    """key: of the present code and these inputs."""
    present = store.manifest(key)
    if present is not None and present.digest == manifest.digest:
        return Link(call, manifest, key, PRESENT, code_version(call.modules, study.root), _computation(store, key))
    other = store.key_of(manifest.digest)
    return Link(call, manifest, other, UNKNOWN if other is None else OTHER, None, _computation(store, other))


def _computation(store: Store, key: str | None) -> dict[str, Any]:
    notes = [] if key is None else store.notes(key)
    return next((note for note in reversed(notes) if note["event"] == "computed"), {})


def _published(out: Path) -> Manifest:
    if not (out / MANIFEST).is_file():
        raise ArtifactError(f"{out}: does not exist: run the stage that makes it (dvc repro) first")
    return parse_manifest((out / MANIFEST).read_bytes(), out / MANIFEST)


def of_member(stage: dict[str, Any], member: str) -> dict[str, Any]:
    """The part of a stack's stage that belongs to one member; other stages as they are."""
    members = stage["parameters"].get("members", {})
    if member not in members:
        return stage
    weights = {name: digest for name, digest in stage["files"].items() if name.startswith(f"{member}/")}
    parameters = stage["parameters"] | {"members": {member: members[member]}}
    return stage | {"parameters": parameters, "files": weights or stage["files"]}
