"""A store in an object store: whatever pyarrow.fs reaches (S3, GCS, ABFS, HDFS)."""

import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from pipeline.console import redacted
from pipeline.errors import ConfigError, StoreError
from pipeline.store.files import FileInfo, full_disk_as_store_error

Method = TypeVar("Method", bound=Callable[..., Any])
RETRY_FOR_SECONDS = 60.0  # only a bucket that has answered this process before
RETRY_EVERY_SECONDS = 1.0
NO_NETWORK = "NETWORK_CONNECTION"  # in the message of AWS's library


def open_bucket(uri: str) -> "Bucket":
    shown = redacted(uri.partition("?")[0])
    try:
        files, root = FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"store {shown}: {error}: give a folder or an address like s3://bucket/path") from error
    if not root:
        raise ConfigError(f"store {shown}: no bucket in it: give a folder or an address like s3://bucket/path")
    return Bucket(files, root, shown)


def _retried(method: Method) -> Method:
    """Raises a StoreError for an OSError, and first waits for a lost network: that costs less than the work since the
    last checkpoint."""

    @wraps(method)
    def call(bucket: "Bucket", name: str, *args: Any, **options: Any) -> Any:
        end = time.monotonic() + RETRY_FOR_SECONDS
        while True:
            try:
                answer = method(bucket, name, *args, **options)
            except OSError as error:
                if not (bucket.has_answered and NO_NETWORK in str(error) and time.monotonic() < end):
                    raise _store_error(f"{bucket.shown}/{name}", error) from error
                time.sleep(RETRY_EVERY_SECONDS)
            else:
                bucket.has_answered = True
                return answer

    return cast(Method, call)


def _store_error(address: str, error: OSError) -> StoreError:
    reason, no_bucket, _ = " ".join(str(error).split()).partition(". To create buckets")
    to_do = "make it, or correct the address" if no_bucket else "check the address, your credentials and the network"
    return StoreError(f"{address}: {reason}: {to_do}")


class Bucket:
    """As `LocalBackend`, but without locks: `guard` excludes nobody."""

    settle_seconds = 2.0

    def __init__(self, files: FileSystem, root: str, shown: str) -> None:
        self.files, self.root, self.shown = files, root.rstrip("/"), shown
        self.has_answered = False

    @_retried
    def read(self, name: str) -> bytes | None:
        try:
            with self.files.open_input_stream(self._path(name)) as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    @_retried
    def write(self, name: str, data: bytes) -> None:
        self._make_folder(name)
        with self.files.open_output_stream(self._path(name)) as stream:
            stream.write(data)

    @_retried
    def info(self, name: str) -> FileInfo | None:
        info = self.files.get_file_info(self._path(name))
        return FileInfo(info.size, info.mtime_ns / 1e9) if info.type == FileType.File else None

    @_retried
    def names(self, folder: str) -> list[str]:
        infos = self.files.get_file_info(FileSelector(self._path(folder), allow_not_found=True))
        return sorted(info.base_name for info in infos)  # what was appended to is a folder, see `append`

    @_retried
    def remove(self, name: str) -> None:
        kind = self.files.get_file_info(self._path(name)).type
        if kind == FileType.Directory:
            self.files.delete_dir(self._path(name))
        elif kind == FileType.File:
            self.files.delete_file(self._path(name))

    @_retried
    def move(self, name: str, target: str) -> None:
        with suppress(FileNotFoundError):
            self._make_folder(target)
            self.files.move(self._path(name), self._path(target))

    @_retried
    def upload(self, name: str, file: Path) -> None:
        self._make_folder(name)
        copy_files(str(file), self._path(name), LocalFileSystem(), self.files)

    @_retried
    def download(self, name: str, file: Path) -> bool:
        if self.files.get_file_info(self._path(name)).type != FileType.File:
            return False
        with full_disk_as_store_error(file):
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
        """Some of pyarrow's file systems need one; in a bucket it costs little."""
        self.files.create_dir(self._path(name).rpartition("/")[0], recursive=True)
