"""Where a number comes from: the results it was computed from, each with its code, settings, inputs, seeds and cost."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.study import Study
from pipeline.dag.code_version import code_version
from pipeline.dag.graph import Call, chain
from pipeline.dag.run import outside
from pipeline.dag.usage import MACHINE
from pipeline.data.artifacts import MANIFEST, Manifest, parse_manifest
from pipeline.errors import ArtifactError
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
    version: str  # PRESENT: what the present code, settings and inputs make; OTHER: it is not; UNKNOWN to this store
    code: str | None  # of the code that made it; None where that is not the present one
    ledger: dict[str, Any]  # of its computation; empty if unknown

    @property
    def label(self) -> str:
        return f"{self.call.stage} {self.call.name}"

    @property
    def _command(self) -> str:
        return f"sweep {self.ledger['sweep']}" if "sweep" in self.ledger else f"{self.call.verb} {self.call.name}"

    def json(self) -> dict[str, Any]:
        return {
            "stage": self.call.stage,
            "name": self.call.name,
            "command": f"trilemma {self._command}",
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
    """The results behind that of `last`, and itself.

    published: as they lie in out/; else those that the store has for the present code, as of a sweep's trial.
    store: the study's, of who asks often: it looks for results of other versions once.
    """
    store, links = store or open_store(study), dict[Path, Link]()
    for call in chain(study, last.stage, last.name):
        inputs = {role: links[path].manifest.digest for role, path in call.made.items()}
        inputs |= {role: artifact.digest for role, artifact in outside(study, call).items()}
        key = call.key(study.root, inputs)
        manifest = _published(call.out) if published else store.manifest(key)
        if manifest is None:
            raise ArtifactError(f"{call.stage} {call.name}: not in the store for the present code: compute it again")
        links[call.out] = _link(study, store, call, manifest, key)
    return list(links.values())


def provenance(study: Study, last: Call, store: Store | None = None) -> Provenance:
    """Whether a result is what the present code, settings and inputs make."""
    try:
        links = chain_links(study, last, store=store)
    except ArtifactError:
        return Provenance(UNKNOWN, "of unknown version: what it was computed from is not in out/")
    for kind, what in ((OTHER, "of another version of code, settings or inputs"), (UNKNOWN, "not known to this store")):
        found = [link.label for link in links if link.version == kind]
        if found:
            return Provenance(kind, f"{what}: {', '.join(found)}")
    return Provenance(PRESENT, "")


def _link(study: Study, store: Store, call: Call, manifest: Manifest, key: str) -> Link:
    """key: of what the present code would make of the inputs at hand."""
    made = store.manifest(key)
    if made is not None and made.digest == manifest.digest:
        return Link(call, manifest, key, PRESENT, code_version(call.modules, study.root), _computation(store, key))
    found = store.key_of(manifest.digest)
    return Link(call, manifest, found, UNKNOWN if found is None else OTHER, None, _computation(store, found))


def _computation(store: Store, key: str | None) -> dict[str, Any]:
    notes = [] if key is None else store.notes(key)
    return next((note for note in reversed(notes) if note["event"] == "computed"), {})


def _published(out: Path) -> Manifest:
    if not (out / MANIFEST).is_file():
        raise ArtifactError(f"{out}: does not exist: run the stage that makes it (dvc repro) first")
    return parse_manifest((out / MANIFEST).read_bytes(), out / MANIFEST)


def of_member(stage: dict[str, Any], member: str) -> dict[str, Any]:
    """What of a stack's stage is one member's; other stages as they are."""
    members = stage["parameters"].get("members", {})
    if member not in members:
        return stage
    weights = {name: digest for name, digest in stage["files"].items() if name.startswith(f"{member}/")}
    parameters = stage["parameters"] | {"members": {member: members[member]}}
    return stage | {"parameters": parameters, "files": weights or stage["files"]}
