"""What measuring learns of the real side, kept by content: features, statistics, factors, radii, floors.

An entry's name is the SHA-256 of all it depends on: the pictures' values, extractor, weights, preprocessing, count, and
the code that computes it. No path is part of it, so a renamed folder is known again and a changed one is not.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.console import say
from pipeline.dag.code_version import code_version
from pipeline.errors import StoreError
from pipeline.metrics.suite import Arrays
from pipeline.store.files import flush, temporary

ROOT = Path(__file__).parents[1]
FOLDER_VARIABLE = "TRILEMMA_CACHE"


@dataclass(frozen=True)
class Cache:
    """Arrays by what they depend on. One file each, safe to delete at any time."""

    folder: Path

    @classmethod
    def at_hand(cls) -> "Cache":
        """$TRILEMMA_CACHE, else beside the store."""
        return cls(Path(os.environ.get(FOLDER_VARIABLE) or ROOT / ".trilemma" / "cache"))

    def arrays(self, key: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
        """What is kept under `key` and the present code, else what `make` returns, kept from then on."""
        name = json.dumps({**key, "code": code_version(("pipeline.metrics.standalone.measure",), ROOT)}, sort_keys=True)
        file = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()}.safetensors"
        found = _read(file, name)
        if found is None:
            found = {part: np.ascontiguousarray(array) for part, array in make().items()}
            _write(file, name, found)
        return found


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}/{arrays[name].dtype}/{arrays[name].shape}/".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _read(file: Path, name: str) -> Arrays | None:
    """None if there is none, or only a damaged one."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="numpy") as kept:
            about = kept.metadata()
            found = {part: kept.get_tensor(part) for part in kept.keys()}  # noqa: SIM118
        if (about["key"], about["digest"]) == (name, digest_of(found)):
            return found
        reason = "its content is not what was written"
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        reason = str(error)
    say(f"trilemma: {file} is damaged ({reason}): computed again")
    return None


def _write(file: Path, name: str, arrays: Arrays) -> None:
    """A measurement is not lost because it cannot be kept."""
    try:
        with temporary(file) as beside:
            save_file(arrays, beside, {"key": name, "digest": digest_of(arrays)})
            flush(beside)
            beside.replace(file)
    except StoreError as error:
        say(f"trilemma: not kept for the next measurement: {error} ({FOLDER_VARIABLE} names another folder)")
