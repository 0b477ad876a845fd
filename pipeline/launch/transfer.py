"""Transfer a task's items to a machine without the driver's disk: it takes their artifacts from the store."""

import io
import tempfile
from pathlib import Path
from typing import Any

from ray.cloudpickle.cloudpickle import Pickler

from pipeline.data.artifacts import MANIFEST, parse_manifest
from pipeline.store.store import Store


def pickle_with_artifacts(item: object, store: str | None) -> bytes:
    """`pickle.loads` then fetches artifacts whose paths the item holds. store: None if all machines share a disk."""
    buffer = io.BytesIO()
    _ArtifactPickler(buffer, store).dump(item)
    return buffer.getvalue()


class _ArtifactPickler(Pickler):
    def __init__(self, file: io.BytesIO, store: str | None) -> None:
        super().__init__(file)
        self._store = store

    def reducer_override(self, obj: Any) -> Any:
        if self._store is not None and isinstance(obj, Path) and (obj / MANIFEST).is_file():
            return _local_path, (str(obj.absolute()), (obj / MANIFEST).read_bytes(), self._store)
        return super().reducer_override(obj)


def _local_path(path: str, manifest: bytes, store: str) -> Path:
    """`path`, if this machine has that artifact there; else its copy in the temporary folder, made if missing."""
    given = Path(path) / MANIFEST
    if given.is_file() and given.read_bytes() == manifest:
        return given.parent
    copy = Path(tempfile.gettempdir()) / "trilemma" / parse_manifest(manifest, given).digest
    if not (copy / MANIFEST).is_file():
        Store(store).publish(manifest, copy)
    return copy
