"""Where a store keeps its files: a folder here, a bucket in `bucket.py`. Every file appears at once or not at all."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol


class FileInfo(NamedTuple):
    bytes: int
    age_seconds: float  # since it was last written


class Backend(Protocol):
    """Names are relative paths with `/`."""

    settle_seconds: float  # until a write is seen by all; 0 where `guard` excludes others

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, data: bytes) -> None: ...

    def info(self, name: str) -> FileInfo | None: ...

    def names(self, folder: str) -> list[str]:
        """Of the files in it, without those below; sorted."""
        ...

    def remove(self, name: str) -> None:
        """A file or a folder, if it is there."""
        ...

    def move(self, name: str, target: str) -> None:
        """A file, if it is there."""
        ...

    def upload(self, file: Path, name: str) -> None: ...

    def download(self, name: str, file: Path) -> bool:
        """Whether there was such a file."""
        ...

    def append(self, name: str, line: bytes) -> None: ...

    def lines(self, name: str) -> list[bytes]:
        """Those appended, without a last one that was cut off."""
        ...

    def guard(self) -> AbstractContextManager[object]:
        """Held for a moment to read and then write without others in between, as far as the place allows."""
        ...
