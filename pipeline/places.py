"""Where a store keeps its files: a folder here, a bucket in `bucket.py`. Every file appears at once or not at all."""

import os
import shutil
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from filelock import FileLock

from pipeline.atomic import flush, full_disk_in_one_line, remove, temporary, writable, write_file


class Info(NamedTuple):
    bytes: int
    age_seconds: float  # since it was last written


class Place(Protocol):
    """Names are relative paths with `/`."""

    settle_seconds: float  # until a write is seen by all; 0 where `guard` excludes others

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, data: bytes) -> None: ...

    def info(self, name: str) -> Info | None: ...

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


class Folder:
    """A folder that processes on this machine share, or several machines over a network file system."""

    settle_seconds = 0.0

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        write_file(self.root / name, data)

    def info(self, name: str) -> Info | None:
        try:
            found = (self.root / name).stat()
        except FileNotFoundError:
            return None
        return Info(found.st_size, time.time() - found.st_mtime)

    def names(self, folder: str) -> list[str]:
        files = (self.root / folder).glob("[!.]*")  # a temporary name begins with a dot
        return sorted(file.name for file in files if file.is_file())

    def remove(self, name: str) -> None:
        remove(self.root / name)

    def move(self, name: str, target: str) -> None:
        (self.root / target).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            (self.root / name).replace(self.root / target)

    def upload(self, file: Path, name: str) -> None:
        with temporary(self.root / name) as beside:
            shutil.copyfile(file, beside)
            flush(beside)
            beside.replace(self.root / name)
            flush((self.root / name).parent)

    def download(self, name: str, file: Path) -> bool:
        if not (self.root / name).is_file():
            return False
        shutil.copyfile(self.root / name, file)
        return True

    def append(self, name: str, line: bytes) -> None:
        path = self.root / name
        writable(path.parent)
        with self.guard(), full_disk_in_one_line(path), path.open("a+b", buffering=0) as file:
            file.seek(0)
            whole = _whole_lines(file.read())
            file.truncate(len(whole))  # a writer was killed in the middle of its line
            try:
                rest = line + b"\n"
                while rest:  # a disk that fills up takes a part, then refuses
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(len(whole))
                raise

    def lines(self, name: str) -> list[bytes]:
        return _whole_lines(self.read(name) or b"").splitlines()

    def guard(self) -> AbstractContextManager[object]:
        writable(self.root)
        return FileLock(self.root / ".guard")


def _whole_lines(text: bytes) -> bytes:
    return text[: text.rfind(b"\n") + 1]


def open_place(uri: str) -> Place:
    """uri: a folder, or s3://bucket/path, gs://..., whatever pyarrow.fs understands."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return Folder(Path(rest if separator else uri).absolute())
    from pipeline.bucket import open_bucket  # here, for loading pyarrow takes longer than a whole answer from a folder

    return open_bucket(uri)
