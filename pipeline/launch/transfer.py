"""Items of a task on their way to a machine that may not have the driver's disk: artifacts come from the store."""

import io
import tempfile
from pathlib import Path
from typing import Any

from ray.cloudpickle.cloudpickle import Pickler

from pipeline.data.artifacts import MANIFEST, parse_manifest
from pipeline.store.store import Store


def pickle_with_artifacts(item: object, store: str | None) -> bytes:
    """For `pickle.loads`, which finds the artifacts whose paths the item holds; store: None if all share a disk."""
    buffer = io.BytesIO()
    _Packer(buffer, store).dump(item)
    return buffer.getvalue()


class _Packer(Pickler):
    def __init__(self, file: io.BytesIO, store: str | None) -> None:
        super().__init__(file)
        self._store = store

    def reducer_override(self, obj: Any) -> Any:
        if self._store is not None and isinstance(obj, Path) and (obj / MANIFEST).is_file():
            return _found, (str(obj.absolute()), (obj / MANIFEST).read_bytes(), self._store)
        return super().reducer_override(obj)


def _found(path: str, manifest: bytes, store: str) -> Path:
    """There, if this machine has it there; else among this machine's own copies."""
    given = Path(path) / MANIFEST
    if given.is_file() and given.read_bytes() == manifest:
        return given.parent
    copy = Path(tempfile.gettempdir()) / "trilemma" / parse_manifest(manifest, given).digest
    if not (copy / MANIFEST).is_file():
        Store(store).publish(manifest, copy)
    return copy
