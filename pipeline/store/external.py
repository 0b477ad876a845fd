"""Data that lie outside the study: where they are, and the digest of their content that enters keys, not the path."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.data.artifacts import Artifact, Manifest, sha256_of_file
from pipeline.errors import UserError
from pipeline.store.files import write_file

DATA = "TRILEMMA_DATA"  # a folder in which entries' paths are looked for


def locate(path: str, study: Path, entry: str) -> Path:
    """The file or folder an entry names: absolute, else in the folder TRILEMMA_DATA, else in the study's."""
    folders = [Path(os.environ[DATA])] if os.environ.get(DATA) else []
    places = [folder / path for folder in [*folders, study]]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        looked = " and ".join(str(place) for place in places)
        raise UserError(f"{entry}: {path!r} is neither of {looked}: set {DATA} or --source to the folder it is in")
    return found.resolve()


def external(path: Path, memory: Path) -> Artifact:
    """Somebody's file or folder as an input of a stage. memory: a folder that keeps digests by names, sizes and times,
    so that what has not changed is not read again."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    names = [file.relative_to(path).as_posix() if path.is_dir() else "" for file in files]
    listing = "\n".join(
        f"{file}|{state.st_size}|{state.st_mtime_ns}" for file, state in ((file, file.stat()) for file in files)
    )
    known = memory / hashlib.sha256(listing.encode()).hexdigest()
    if not known.is_file():
        memory.mkdir(parents=True, exist_ok=True)
        write_file(known, _digest(zip(names, files)).encode())
    digest = known.read_text()
    return Artifact(path, Manifest("external", path.name, {}, {}, {}, {}, {}), digest)


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    whole = hashlib.sha256()
    for name, file in files:
        whole.update(f"{name}|{sha256_of_file(file)}\n".encode())
    return whole.hexdigest()
