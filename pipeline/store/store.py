"""Results and training state by key, so that nothing is computed twice and nothing is lost when something dies.

results/<key>.json         the manifest, written last: a result is there if this is
data/<sha256>              the files of all results, by content
state/<key>/<name>         training state of an unfinished computation
ledger/<key>.jsonl         when, where, how long, on what: circumstance, never hashed
leases/<key>.json          who is computing
corrupt/<sha256>           damaged data, moved out of the way
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.console import say
from pipeline.data.artifacts import ELSEWHERE, MANIFEST, Artifact, Manifest, entry_of, manifest_text, parse_manifest
from pipeline.errors import ArtifactError, StoreError
from pipeline.store.backend import Backend
from pipeline.store.backends import open_backend
from pipeline.store.files import temporary
from pipeline.store.lease import lease, lease_name
from pipeline.store.publish import publish_folder


class Store:
    """uri: a folder, or a bucket such as s3://bucket/path. streams: prepared pictures stay in it."""

    def __init__(self, uri: str, streams: bool = False) -> None:
        self.uri, self.streams = uri if "://" in uri else str(Path(uri).absolute()), streams
        self.place = open_backend(uri)
        self._keys: dict[str, str] = {}  # by digest, of the results that were looked at
        self._seen: set[str] = set()

    def has(self, key: str) -> bool:
        return self.place.info(_result(key)) is not None

    def manifest(self, key: str) -> Manifest | None:
        """Of the result of `key`, without its files."""
        text = self.place.read(_result(key))
        return None if text is None else parse_manifest(text, _result(key))

    def key_of(self, digest: str) -> str | None:
        """The key of a result, by the digest of its artifact; looks at all there are, at each once."""
        if digest not in self._keys:
            keys = [name.removesuffix(".json") for name in self.place.names("results")]
            for key in keys:
                if key not in self._seen and (found := self.manifest(key)):
                    self._seen.add(key)
                    self._keys.setdefault(found.digest, key)
        return self._keys.get(digest)

    def put(self, key: str, artifact: Artifact) -> None:
        """Keep the artifact as the result of `key`, unless there is one: the first stays. Its files are not hashed
        again: `fetch` does so."""
        if self.has(key):
            return
        for name, entry in artifact.manifest.files.items():
            kept = self.place.info(_data(entry.sha256))
            if kept is None or kept.bytes != entry.bytes:
                self.place.upload(artifact.path / name, _data(entry.sha256))
        if not self.has(key):
            self.place.write(_result(key), manifest_text(artifact.manifest).encode())

    def fetch(self, key: str, out: Path) -> Artifact | None:
        """The result of `key` as the artifact `out`, the same bytes; None if there is none, or only a damaged one."""
        text = self.place.read(_result(key))
        if text is None:
            return None
        try:
            return self.publish(text, out)
        except ArtifactError as error:
            say(f"the store's result {key[:12]} is damaged and put aside: {error}")
            self.place.move(_result(key), f"corrupt/{key}.json")
            return None

    def publish(self, text: bytes, out: Path) -> Artifact:
        """The artifact with this manifest as `out`, from the files kept here."""
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
        """Where prepared pictures stay here, remove them from the artifact and write into it where they are."""
        staying = self._staying(artifact.manifest)
        if staying:
            (artifact.path / ELSEWHERE).write_text(re.sub("//[^/]*@", "//", self.uri))  # without credentials
        for name in staying:
            (artifact.path / name).unlink(missing_ok=True)

    def _staying(self, manifest: Manifest) -> set[str]:
        if not self.streams or manifest.stage != "prepare" or len(manifest.facts["shape"]) != 3:
            return set()
        return {name for name in manifest.files if name.endswith(".arrow")}

    def lease(self, key: str) -> AbstractContextManager[None]:
        """Held by one caller at a time, who should look for the result once more and then compute it."""
        return lease(self.place, key)

    def is_leased(self, key: str) -> bool:
        """By somebody who computes, or who died."""
        return self.place.info(lease_name(key)) is not None

    def state(self, key: str) -> "State":
        return State(self.uri, key)

    def note(self, key: str, line: Mapping[str, Any]) -> None:
        """Append to the ledger of `key`."""
        self.place.append(_ledger(key), json.dumps(dict(line)).encode())

    def notes(self, key: str) -> list[dict[str, Any]]:
        """The ledger of `key`, oldest first."""
        return list(self._parsed(key))

    def ledger(self) -> Iterator[dict[str, Any]]:
        """Every note on every key."""
        for name in self.place.names("ledger"):
            yield from self._parsed(name.removesuffix(".jsonl"))

    def _parsed(self, key: str) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(self.place.lines(_ledger(key)), 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise StoreError(f"{self.uri}/{_ledger(key)}:{number}: {error}: repair or remove the line") from error

    def _download(self, manifest: Manifest, folder: Path) -> None:
        for name in manifest.files.keys() - self._staying(manifest):
            entry = manifest.files[name]
            kept = _data(entry.sha256)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if not self.place.download(kept, folder / name):
                raise ArtifactError(f"{kept} ({name}) is missing")
            if entry_of(folder / name) != entry:
                self.place.move(kept, f"corrupt/{entry.sha256}")
                raise ArtifactError(f"{kept} ({name}) is not what was written: moved to corrupt/")


@dataclass(frozen=True)
class State:
    """What an unfinished computation needs to go on: bytes by name. Can be sent to other processes."""

    uri: str
    key: str

    def load(self, name: str) -> bytes | None:
        return self._place.read(self._path(name))

    def save(self, name: str, data: bytes) -> None:
        """Replace `name` at once."""
        self._place.write(self._path(name), data)

    def names(self) -> list[str]:
        return self._place.names(f"state/{self.key}")

    def clear(self) -> None:
        self._place.remove(f"state/{self.key}")

    def _path(self, name: str) -> str:
        assert Path(name).name == name, f"{name!r}: one plain name"
        assert not name.startswith("."), f"{name!r}: names with a dot in front are temporary"
        return f"state/{self.key}/{name}"

    @cached_property
    def _place(self) -> Backend:
        return open_backend(self.uri)


def _result(key: str) -> str:
    return f"results/{key}.json"


def _data(sha256: str) -> str:
    return f"data/{sha256}"


def _ledger(key: str) -> str:
    return f"ledger/{key}.jsonl"
