"""Files and folders that appear complete or not at all; what killed processes left behind is removed."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import StoreError, TrilemmaError
from pipeline.store.process_id import ProcessId

TEMPORARY_MARK = ".tmp~"
OWNER_PATTERN = re.compile(rf"{re.escape(TEMPORARY_MARK)}[0-9a-f]+~([0-9]+)~([0-9.]+)~(.*)$")
FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the quota, the largest file allowed


class FileInfo(NamedTuple):
    bytes: int
    written: float  # seconds since the epoch, by the clock of the file system or of the machine that wrote


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """An unused name beside `path`, for a file or folder that is written and then renamed; removed at the end.

    The name holds the process, so that the next writer into this folder removes it if that process was killed.
    """
    host, pid, started = ProcessId.current()
    beside = path.with_name(f".{path.name}{TEMPORARY_MARK}{uuid.uuid4().hex[:8]}~{pid}~{started}~{host}")
    with full_disk_as_store_error(path):
        ensure_writable(path.parent)
        _remove_abandoned(path.parent)
        try:
            yield beside
        finally:
            remove(beside)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file under, which replaces `path` at the end of the block and then survives a power cut."""
    with temporary(path) as beside:
        yield beside
        flush(beside)
        beside.replace(path)
        flush(path.parent)


def write_file(path: Path, data: bytes | str) -> None:
    with replacing(path) as beside:
        beside.write_bytes(data.encode() if isinstance(data, str) else data)


def flush_tree(folder: Path) -> None:
    """Write everything in `folder` to the disk, so that it survives a power cut."""
    for inner in folder.rglob("*"):
        flush(inner)
    flush(folder)


def remove(path: Path) -> None:
    """A file or a folder; no error if it is missing, or if another process removes it at the same time."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        pass


@contextmanager
def full_disk_as_store_error(path: Path) -> Iterator[None]:
    """While writing `path`: a full disk, however a library reports it, becomes a StoreError; other errors pass."""
    try:
        yield
    except TrilemmaError:
        raise
    except BaseException as error:
        reason = _full_disk_reason(error)
        if reason is None:
            raise
        raise StoreError(
            f"{path}: {reason} while writing it; nothing half-written was left: "
            "make room, then run the same command again"
        ) from error


def _full_disk_reason(error: BaseException | None) -> str | None:
    while error is not None:
        for code in FULL_DISK_ERRORS:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                return os.strerror(code).lower()
        error = error.__cause__ or error.__context__
    return None


def ensure_writable(folder: Path) -> None:
    """Make the folder if it is missing; a StoreError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: no folder can be made there ({error.strerror}): choose another place") from error
    if not os.access(folder, os.W_OK):
        raise StoreError(f"{folder}: you may not write there: choose another place or change its permissions")


def _remove_abandoned(folder: Path) -> None:
    """Temporary files and folders of processes that have ended."""
    for path in folder.glob(f".*{TEMPORARY_MARK}*"):
        owner = OWNER_PATTERN.search(path.name)
        if owner and not ProcessId(owner[3], int(owner[1]), float(owner[2])).is_alive():
            remove(path)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
