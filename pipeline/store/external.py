"""Data outside the study: where they are, and the digest of their content, which enters keys instead of the path."""

import hashlib
import os
from pathlib import Path

from pipeline.data.artifacts import Artifact, Manifest, sha256_of_file
from pipeline.errors import UserError
from pipeline.store.files import write_file

DATA_VARIABLE = "TRILEMMA_DATA"  # a folder in which entries' paths are looked for


def locate(path: str, study: Path, entry: str) -> Path:
    """The file or folder an entry names: absolute, else in the folder TRILEMMA_DATA, else in the study's."""
    folders = [Path(os.environ[DATA_VARIABLE])] if os.environ.get(DATA_VARIABLE) else []
    candidates = [folder / path for folder in [*folders, study]]
    for candidate in candidates:
        if candidate.exists():
            return candidate.resolve()
    tried = " and ".join(map(str, candidates))
    raise UserError(f"{entry}: {path!r} is neither of {tried}: set {DATA_VARIABLE} or --source to the folder it is in")


def external(path: Path, cache: Path) -> Artifact:
    """A file or folder as an input of a stage. cache: a folder of digests by names, sizes and times, so that unchanged
    files are not read again."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    states = [(file, file.stat()) for file in files]
    listing = "\n".join(f"{file}|{state.st_size}|{state.st_mtime_ns}" for file, state in states)
    cached = cache / hashlib.sha256(listing.encode()).hexdigest()
    if not cached.is_file():
        digest = hashlib.sha256()
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else ""
            digest.update(f"{name}|{sha256_of_file(file)}\n".encode())
        write_file(cached, digest.hexdigest().encode())
    return Artifact(path, Manifest("external", path.name, {}, {}, {}, {}, {}), cached.read_text())
