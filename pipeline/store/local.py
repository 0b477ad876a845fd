"""A store in a folder, and the type of all backends: both have the same methods."""

import os
import shutil
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from filelock import FileLock

from pipeline.store.files import FileInfo, ensure_writable, full_disk_as_store_error, remove, replacing, write_file

if TYPE_CHECKING:
    from pipeline.store.bucket import Bucket

Backend: TypeAlias = "LocalBackend | Bucket"


class LocalBackend:
    """A folder shared by processes of this machine, or by several machines over a network file system.

    Names are relative paths with `/`. Every write is atomic. `remove` and `move` accept a name that is missing.
    """

    settle_seconds = 0.0  # between competing writes and the read that shows the last one: `guard` is a lock

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        write_file(self.root / name, data)

    def info(self, name: str) -> FileInfo | None:
        try:
            status = (self.root / name).stat()
        except FileNotFoundError:
            return None
        return FileInfo(status.st_size, status.st_mtime)

    def names(self, folder: str) -> list[str]:
        """The files directly in the folder, sorted."""
        files = (self.root / folder).glob("[!.]*")  # a temporary name begins with a dot
        return sorted(file.name for file in files if file.is_file())

    def remove(self, name: str) -> None:
        remove(self.root / name)

    def move(self, name: str, target: str) -> None:
        (self.root / target).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            (self.root / name).replace(self.root / target)

    def upload(self, name: str, file: Path) -> None:
        with replacing(self.root / name) as temporary_file:
            shutil.copyfile(file, temporary_file)

    def download(self, name: str, file: Path) -> bool:
        """False if there is no such file."""
        if not (self.root / name).is_file():
            return False
        shutil.copyfile(self.root / name, file)
        return True

    def append(self, name: str, line: bytes) -> None:
        path = self.root / name
        ensure_writable(path.parent)
        with self.guard(), full_disk_as_store_error(path), path.open("a+b", buffering=0) as file:
            file.seek(0)
            size = len(_complete_lines(file.read()))
            file.truncate(size)  # the last writer may have been killed in the middle of its line
            try:
                rest = line + b"\n"
                while rest:  # a disk that fills up takes a part, then raises
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise

    def lines(self, name: str) -> list[bytes]:
        return _complete_lines(self.read(name) or b"").splitlines()

    def guard(self) -> AbstractContextManager[object]:
        """A lock for reading and then writing."""
        ensure_writable(self.root)
        return FileLock(self.root / ".guard")


def _complete_lines(text: bytes) -> bytes:
    return text[: text.rfind(b"\n") + 1]
