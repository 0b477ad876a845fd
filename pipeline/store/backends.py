"""The backend of a store address: a folder or a bucket."""

from pathlib import Path

from pipeline.store.backend import Backend
from pipeline.store.local import LocalBackend


def open_backend(uri: str) -> Backend:
    """uri: a folder, or s3://bucket/path, gs://..., whatever pyarrow.fs understands."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return LocalBackend(Path(rest if separator else uri).absolute())
    from pipeline.store.bucket import (
        open_bucket,  # here, for loading pyarrow takes longer than a whole answer from a folder
    )

    return open_bucket(uri)
