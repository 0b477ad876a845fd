"""Results and training state by key: nothing is computed twice, and a killed process loses little work.

results/<key>.json         the manifest, written last: the result exists if this file does
data/<sha256>              the files of all results, by content
state/<key>/<name>         training state of an unfinished computation, after its SHA-256
ledger/<key>.jsonl         when, where, how long, on what machine: never hashed
leases/<key>.json          the process that computes
corrupt/...                damaged data, manifests and training state, moved here
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.console import redacted, say
from pipeline.data.artifacts import ELSEWHERE, MANIFEST, Artifact, Manifest, entry_of, manifest_text, parse_manifest
from pipeline.errors import ArtifactError, StoreError
from pipeline.store.files import temporary
from pipeline.store.lease import lease, lease_name
from pipeline.store.local import Backend, LocalBackend
from pipeline.store.publish import publish_folder

DIGEST_BYTES = 32  # of SHA-256


def open_backend(uri: str) -> Backend:
    """uri: a folder, or s3://bucket/path, gs://... and whatever else pyarrow.fs understands."""
    scheme, separator, path = uri.partition("://")
    if not separator or scheme == "file":
        return LocalBackend(Path(path if separator else uri).absolute())
    from pipeline.store.bucket import open_bucket  # here: loading pyarrow takes longer than an answer from a folder

    return open_bucket(uri)


class Store:
    """uri: see `open_backend`. streams: prepared images stay in the store."""

    def __init__(self, uri: str, streams: bool = False) -> None:
        self.uri, self.streams = uri if "://" in uri else str(Path(uri).absolute()), streams
        self.backend = open_backend(uri)
        self._keys: dict[str, str] = {}  # by digest, of the results whose manifest was read
        self._read: set[str] = set()  # their keys

    def has(self, key: str) -> bool:
        return self.backend.info(_result(key)) is not None

    def manifest(self, key: str) -> Manifest | None:
        """The manifest of the result of `key`."""
        text = self.backend.read(_result(key))
        return None if text is None else parse_manifest(text, _result(key))

    def key_of(self, digest: str) -> str | None:
        """The key of a result, by the digest of its artifact. Reads every manifest of the store, once."""
        if digest not in self._keys:
            for name in self.backend.names("results"):
                key = name.removesuffix(".json")
                if key not in self._read and (manifest := self.manifest(key)):
                    self._read.add(key)
                    self._keys.setdefault(manifest.digest, key)
        return self._keys.get(digest)

    def put(self, key: str, artifact: Artifact) -> None:
        """Store the artifact as the result of `key`, unless there is one: the first stays. Its files are not hashed
        again; `fetch` does that."""
        if self.has(key):
            return
        for name, entry in artifact.manifest.files.items():
            stored = self.backend.info(_data(entry.sha256))
            if stored is None or stored.bytes != entry.bytes:
                self.backend.upload(_data(entry.sha256), artifact.path / name)
        if not self.has(key):
            self.backend.write(_result(key), manifest_text(artifact.manifest).encode())

    def fetch(self, key: str, out: Path) -> Artifact | None:
        """The result of `key` as the artifact `out`, the same bytes; None if there is none, or only a damaged one."""
        text = self.backend.read(_result(key))
        if text is None:
            return None
        try:
            return self.publish(text, out)
        except ArtifactError as error:
            say(f"the store's result {key[:12]} is damaged and moved to corrupt/: {error}")
            self.backend.move(_result(key), f"corrupt/{key}.json")
            return None

    def publish(self, text: bytes, out: Path) -> Artifact:
        """Write the artifact with this manifest to `out`, from the files in the store."""
        manifest = parse_manifest(text, out / MANIFEST)
        with temporary(out) as folder:
            folder.mkdir()
            self._download(manifest, folder)
            (folder / MANIFEST).write_bytes(text)
            artifact = Artifact(folder, manifest, manifest.digest)
            self.lighten(artifact)
            publish_folder(folder, out)
        return artifact._replace(path=out)

    def lighten(self, artifact: Artifact) -> None:
        """With `streams`, remove prepared images from the artifact and write the store's address into it."""
        if staying := self._staying(artifact.manifest):
            (artifact.path / ELSEWHERE).write_text(redacted(self.uri))
        for name in staying:
            (artifact.path / name).unlink(missing_ok=True)

    def _staying(self, manifest: Manifest) -> set[str]:
        if not self.streams or manifest.stage != "prepare" or len(manifest.facts["shape"]) != 3:
            return set()
        return {name for name in manifest.files if name.endswith(".arrow")}

    def lease(self, key: str) -> AbstractContextManager[None]:
        """Held by one caller at a time, which should call `fetch` once more before it computes the result."""
        return lease(self.backend, key)

    def is_leased(self, key: str) -> bool:
        """By a process that computes, or that ended without giving the lease back."""
        return self.backend.info(lease_name(key)) is not None

    def state(self, key: str) -> "State":
        return State(self.uri, key)

    def note(self, key: str, line: Mapping[str, Any]) -> None:
        """Append to the ledger of `key`."""
        self.backend.append(f"ledger/{key}.jsonl", json.dumps(dict(line)).encode())

    def notes(self, key: str) -> list[dict[str, Any]]:
        """The ledger of `key`, oldest first."""
        file, notes = f"ledger/{key}.jsonl", []
        for number, line in enumerate(self.backend.lines(file), 1):
            try:
                notes.append(json.loads(line))
            except ValueError as error:
                raise StoreError(f"{self.uri}/{file}:{number}: {error}: repair or remove the line") from error
        return notes

    def ledger(self) -> Iterator[dict[str, Any]]:
        """Every note on every key."""
        for name in self.backend.names("ledger"):
            yield from self.notes(name.removesuffix(".jsonl"))

    def _download(self, manifest: Manifest, folder: Path) -> None:
        for name in manifest.files.keys() - self._staying(manifest):
            entry = manifest.files[name]
            stored = _data(entry.sha256)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if not self.backend.download(stored, folder / name):
                raise ArtifactError(f"{stored} ({name}) is missing")
            if entry_of(folder / name) != entry:
                self.backend.move(stored, f"corrupt/{entry.sha256}")
                raise ArtifactError(f"{stored} ({name}) is not what was written: moved to corrupt/")


@dataclass(frozen=True)
class State:
    """Checkpoints of an unfinished computation: bytes by name. Can be sent to other processes."""

    uri: str
    key: str

    def load(self, name: str) -> bytes | None:
        """What was saved; None if nothing was, or if it was damaged: then it is moved to corrupt/."""
        saved = self._backend.read(self._path(name))
        if saved is None or saved[:DIGEST_BYTES] == _sha256(saved[DIGEST_BYTES:]):
            return saved and saved[DIGEST_BYTES:]
        kept = f"corrupt/{self.key}-{name}"
        self._backend.move(self._path(name), kept)
        say(f"the saved state {name} of {self.key[:12]} is damaged and moved to {kept}: what it held is computed anew")
        return None

    def save(self, name: str, data: bytes) -> None:
        """Replace `name` at once."""
        self._backend.write(self._path(name), _sha256(data) + data)

    def names(self) -> list[str]:
        return self._backend.names(f"state/{self.key}")

    def clear(self) -> None:
        self._backend.remove(f"state/{self.key}")

    def _path(self, name: str) -> str:
        assert Path(name).name == name, f"{name!r}: one plain name"
        assert not name.startswith("."), f"{name!r}: names that begin with a dot are temporary"
        return f"state/{self.key}/{name}"

    @cached_property
    def _backend(self) -> Backend:
        return open_backend(self.uri)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _result(key: str) -> str:
    return f"results/{key}.json"


def _data(sha256: str) -> str:
    return f"data/{sha256}"
