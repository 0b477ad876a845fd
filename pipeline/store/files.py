"""Files and folders that appear at once, complete, or not at all; what killed processes leave behind is swept."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import StoreError, TrilemmaError
from pipeline.store.process_id import ProcessId

MARK = ".tmp~"
OWNER = re.compile(rf"{re.escape(MARK)}[0-9a-f]+~(?P<pid>[0-9]+)~(?P<started>[0-9.]+)~(?P<host>.*)$")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the quota, the largest file allowed


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """An unused name beside `path`, for a file or folder to be made under and renamed; nothing stays there.

    The name tells whose it is, so that whoever next writes into this folder sweeps it if that process was killed.
    """
    owner = ProcessId.current()
    beside = path.with_name(f".{path.name}{MARK}{uuid.uuid4().hex[:8]}~{owner.pid}~{owner.started}~{owner.host}")
    with full_disk_in_one_line(path):
        writable(path.parent)
        _sweep(path.parent)
    try:
        with full_disk_in_one_line(path):
            yield beside
    finally:
        remove(beside)


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` by `data` at once."""
    with temporary(path) as beside:
        beside.write_bytes(data)
        flush(beside)
        beside.replace(path)
        flush(path.parent)


def flush_tree(folder: Path) -> None:
    """Bring everything in `folder` to the disk, so that it outlives a power cut."""
    for inner in folder.rglob("*"):
        flush(inner)
    flush(folder)


def remove(path: Path) -> None:
    """A file, a folder, or nothing."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:  # or somebody else is removing it
        pass


@contextmanager
def full_disk_in_one_line(path: Path) -> Iterator[None]:
    """While writing `path`: a full disk, however a library reports it, becomes a StoreError; other errors pass."""
    try:
        yield
    except TrilemmaError:
        raise
    except BaseException as error:
        reason = _fullness(error)
        if reason is None:
            raise
        raise StoreError(
            f"{path}: {reason} while writing it; nothing half-written was left: "
            "make room, then run the same command again"
        ) from error


def _fullness(error: BaseException | None) -> str | None:
    """What the system says of a full disk, if that is what went wrong."""
    while error is not None:
        for code in FULL:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                return os.strerror(code).lower()
        error = error.__cause__ or error.__context__
    return None


def writable(folder: Path) -> None:
    """Make the folder if it is missing; one line if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: no folder can be made there ({error.strerror}): choose another place") from error
    if not os.access(folder, os.W_OK):
        raise StoreError(f"{folder}: you may not write there: choose another place or change its permissions")


def _sweep(folder: Path) -> None:
    """Remove what processes that are dead by now left in `folder`."""
    for left in folder.glob(f".*{MARK}*"):
        owner = OWNER.search(left.name)
        if owner and not ProcessId(owner["host"], int(owner["pid"]), float(owner["started"])).is_alive():
            remove(left)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
