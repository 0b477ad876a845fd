"""An object store as a place for results: whatever pyarrow.fs reaches (S3, GCS, ABFS, HDFS)."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from pipeline.errors import ConfigError, StoreError
from pipeline.store.backend import FileInfo
from pipeline.store.files import full_disk_in_one_line

P = ParamSpec("P")
T = TypeVar("T")
PATIENCE_SECONDS = 60.0  # with a bucket that has answered this process before
RETRY_SECONDS = 1.0
NO_NETWORK = "NETWORK_CONNECTION"  # in what AWS's library says


def open_bucket(uri: str) -> "Bucket":
    parts = urlsplit(uri)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without credentials
    try:
        files, root = FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"store {shown}: {error}: give a folder or an address like s3://bucket/path") from error
    if not root:
        raise ConfigError(f"store {shown}: no bucket in it: give a folder or an address like s3://bucket/path")
    return Bucket(files, root, shown)


def _patient(ask: "Callable[Concatenate[Bucket, P], T]") -> "Callable[Concatenate[Bucket, P], T]":
    """A network that comes back costs the wait, not the work since the last checkpoint."""

    @wraps(ask)
    def asked(bucket: "Bucket", *args: P.args, **options: P.kwargs) -> T:
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = ask(bucket, *args, **options)
            except StoreError as error:
                if not (bucket.has_answered and NO_NETWORK in str(error) and time.monotonic() < end):
                    raise
                time.sleep(RETRY_SECONDS)
            else:
                bucket.has_answered = True
                return answer

    return asked


class Bucket:
    """An object appears when its upload is complete; there are no locks, so `guard` excludes nobody."""

    settle_seconds = 2.0

    def __init__(self, files: FileSystem, root: str, shown: str) -> None:
        self.files, self.root, self.shown = files, root.rstrip("/"), shown
        self.has_answered = False

    @_patient
    def read(self, name: str) -> bytes | None:
        with self._in_one_line(name):
            try:
                with self.files.open_input_stream(self._path(name)) as stream:
                    return stream.read()
            except FileNotFoundError:
                return None

    @_patient
    def write(self, name: str, data: bytes) -> None:
        with self._in_one_line(name):
            self._make_folder(name)
            with self.files.open_output_stream(self._path(name)) as stream:
                stream.write(data)

    @_patient
    def info(self, name: str) -> FileInfo | None:
        with self._in_one_line(name):
            found = self.files.get_file_info(self._path(name))
        if found.type != FileType.File:
            return None
        return FileInfo(found.size, time.time() - found.mtime_ns / 1e9)

    @_patient
    def names(self, folder: str) -> list[str]:
        with self._in_one_line(folder):
            found = self.files.get_file_info(FileSelector(self._path(folder), allow_not_found=True))
        return sorted(info.base_name for info in found)  # what was appended to is a folder, see `append`

    @_patient
    def remove(self, name: str) -> None:
        with self._in_one_line(name):
            kind = self.files.get_file_info(self._path(name)).type
            if kind == FileType.Directory:
                self.files.delete_dir(self._path(name))
            elif kind == FileType.File:
                self.files.delete_file(self._path(name))

    @_patient
    def move(self, name: str, target: str) -> None:
        with self._in_one_line(name), suppress(FileNotFoundError):
            self._make_folder(target)
            self.files.move(self._path(name), self._path(target))

    @_patient
    def upload(self, file: Path, name: str) -> None:
        with self._in_one_line(name):
            self._make_folder(name)
            copy_files(str(file), self._path(name), LocalFileSystem(), self.files)

    @_patient
    def download(self, name: str, file: Path) -> bool:
        if self.info(name) is None:
            return False
        with self._in_one_line(name), full_disk_in_one_line(file):
            copy_files(self._path(name), str(file), self.files, LocalFileSystem())
        return True

    def append(self, name: str, line: bytes) -> None:
        """Objects cannot grow: each line is one, named by its time."""
        self.write(f"{name}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}", line)

    def lines(self, name: str) -> list[bytes]:
        return [self.read(f"{name}/{line}") or b"" for line in self.names(name)]

    def guard(self) -> AbstractContextManager[object]:
        return nullcontext()

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _make_folder(self, name: str) -> None:
        """Some of pyarrow's file systems want one; in a bucket it costs nothing that matters."""
        self.files.create_dir(self._path(name).rpartition("/")[0], recursive=True)

    @contextmanager
    def _in_one_line(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason, no_bucket, _ = " ".join(str(error).split()).partition(". To create buckets")
            to_do = (
                "make it, or correct the address"
                if no_bucket
                else "check the address, your credentials and the network"
            )
            raise StoreError(f"{self.shown}/{name}: {reason}: {to_do}") from error
