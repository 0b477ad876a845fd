"""The artifact of a stage: a folder of data files and `manifest.json`, written last, so what exists is complete.

An artifact holds only what a rerun reproduces. Time, host, versions and cost belong in the ledger.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pipeline.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np


MANIFEST = "manifest.json"
ELSEWHERE = "elsewhere"  # a file with the address of the store, where an artifact's shards are in the store alone
OUTSIDE = "files"  # the role of an input that no stage made
MAX_EXACT_INTEGER = 2**53  # integral floats up to here equal the integer

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, 1.0 written as 1; Infinity and NaN are allowed."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def key_of(stage: str, config: Mapping[str, Any], inputs: Mapping[str, str], code: str) -> str:
    """The name of a result before it is computed. inputs: digests of artifacts by name; code: `code_version`."""
    return digest_of({"stage": stage, "config": config, "inputs": inputs, "code": code})


class FileEntry(NamedTuple):
    """One data file, as the manifest lists it."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of an artifact, and what it was made from."""

    stage: str
    name: str  # of the entry in params.yaml
    config: dict[str, Any]
    inputs: dict[str, str]  # name -> digest of the artifact it was made from
    facts: dict[str, Any]  # what the next stages read without opening the data: counts, shapes
    seeds: dict[str, Any]
    files: dict[str, FileEntry]  # by path below the folder

    def json(self) -> dict[str, Any]:
        return asdict(self) | {"files": {name: entry._asdict() for name, entry in self.files.items()}}

    @cached_property
    def digest(self) -> str:
        """Of all but the name: entries that are alike but for it have one result, under the name of either."""
        return digest_of({key: value for key, value in self.json().items() if key != "name"})


class Artifact(NamedTuple):
    path: Path
    manifest: Manifest
    digest: str


@dataclass
class Draft:
    """An artifact in the making: files are written into `path`; publishing sets `artifact`."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, Any] = field(default_factory=dict)
    artifact: Artifact = field(init=False)


def read_artifact(path: Path) -> Artifact:
    """The artifact at `path`, every file checked against the manifest; ArtifactError if one differs."""
    if not (path / MANIFEST).is_file():
        what = "holds no manifest.json, so it is incomplete" if path.is_dir() else "does not exist"
        raise ArtifactError(f"{path}: {what}: run the stage that makes it (dvc repro) first")
    manifest = read_manifest(path)
    for name, wanted in manifest.files.items():
        if (path / name).exists() or not (path / ELSEWHERE).is_file():
            _check(path / name, wanted, f"remove {path} and run {manifest.stage} {manifest.name} again")
    return Artifact(path, manifest, manifest.digest)


def facts_of(folder: Path) -> Mapping[str, Any]:
    """The facts in an artifact's manifest; data files are not read."""
    return read_manifest(folder).facts


def read_manifest(folder: Path) -> Manifest:
    return parse_manifest((folder / MANIFEST).read_bytes(), folder / MANIFEST)


def entry_of(file: Path) -> FileEntry:
    return FileEntry(file.stat().st_size, sha256_of_file(file))


def sha256_of_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_arrays(arrays: "Mapping[str, np.ndarray]", *words: str) -> str:
    """Of the words, then the arrays' names, types, shapes and values."""
    import numpy as np  # here: reading a result from the store needs no arrays

    digest = hashlib.sha256("/".join(words).encode())
    for name in sorted(arrays):
        digest.update(f"{name}/{arrays[name].dtype}/{arrays[name].shape}/".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def manifest_text(manifest: Manifest) -> str:
    return json.dumps(_plain(manifest.json()), sort_keys=True, indent=1) + "\n"


def parse_manifest(text: bytes, source: Path | str) -> Manifest:
    """source: where the text came from, for the error."""
    try:
        parts = json.loads(text)
        files = {name: FileEntry(**entry) for name, entry in parts.pop("files").items()}
        manifest = Manifest(files=files, **parts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{source}: not a manifest ({error}): remove its folder and run its stage again") from error
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ArtifactError(f"{source}: file name {name!r} leads out of the artifact: do not use this artifact")
    return manifest


def _check(file: Path, wanted: FileEntry, remedy: str) -> None:
    if not file.is_file():
        raise ArtifactError(f"{file}: missing, but the manifest lists it: {remedy}")
    if file.stat().st_size != wanted.bytes:
        raise ArtifactError(f"{file}: {file.stat().st_size} bytes, the manifest lists {wanted.bytes}: {remedy}")
    if entry_of(file) != wanted:
        raise ArtifactError(f"{file}: its SHA-256 differs from the manifest's: {remedy}")


def _plain(value: Any) -> Json:
    """The value in JSON's own types, so that equal values have equal text."""
    match value:
        case None | bool() | str():
            return value
        case float() if math.isfinite(value) and value.is_integer() and abs(value) <= MAX_EXACT_INTEGER:
            return int(value)
        case int() | float():
            return value
        case Mapping():
            wrong = next((key for key in value if not isinstance(key, str)), None)
            if wrong is not None:
                raise TypeError(f"key {wrong!r} of type {type(wrong).__name__}: JSON has text keys only")
            return {key: _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
    raise TypeError(f"{value!r} of type {type(value).__name__} has no JSON form: pass numbers, text, lists, dicts")
