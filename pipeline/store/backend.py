"""Where a store keeps its files: a folder (`local.py`) or a bucket (`bucket.py`). Every write is atomic."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol


class FileInfo(NamedTuple):
    bytes: int
    age_seconds: float  # since the last write


class Backend(Protocol):
    """Names are relative paths with `/`."""

    settle_seconds: float  # between competing writes and the read that shows the last one; 0 where `guard` is a lock

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, data: bytes) -> None: ...

    def info(self, name: str) -> FileInfo | None: ...

    def names(self, folder: str) -> list[str]:
        """The files directly in the folder, sorted."""
        ...

    def remove(self, name: str) -> None:
        """A file or a folder; no error if it is missing."""
        ...

    def move(self, name: str, target: str) -> None:
        """A file; no error if it is missing."""
        ...

    def upload(self, name: str, file: Path) -> None: ...

    def download(self, name: str, file: Path) -> bool:
        """False if there is no such file."""
        ...

    def append(self, name: str, line: bytes) -> None: ...

    def lines(self, name: str) -> list[bytes]:
        """The appended lines, without a last one that was cut off."""
        ...

    def guard(self) -> AbstractContextManager[object]:
        """A lock for reading and then writing; in a bucket, which has no locks, it excludes nobody."""
        ...
