"""Files from elsewhere: what a wrong one is, by its content, and limits before anything is unpacked."""

import zipfile
from pathlib import Path

from pipeline.errors import UserError

HEAD_BYTES = 1024  # that decide what a file is
MAX_UNPACKED_BYTES = 2**28  # of an archive that is packed more than MAX_RATIO times
MAX_RATIO = 100
ENCRYPTED = 1  # bit of a zip entry's flags


def wrong_file(content: bytes) -> str | None:
    """What came in place of a file and what to do, from its first bytes; None if it may be the file itself."""
    head = content[:HEAD_BYTES].lstrip().lower()
    if not content:
        return "it is empty: fetch it again"
    if head.startswith(b"version https://git-lfs.github.com/spec"):
        return "this is a Git LFS pointer: fetch the file itself (git lfs pull)"
    if head.startswith((b"<!doctype html", b"<html", b"<head")) or (head.startswith(b"<?xml") and b"<html" in head):
        return "this is a web page: fetch the file itself"
    if head.startswith(b"<?xml") and b"<error" in head:
        return "this is a server's error message: fetch the file itself"
    if head.startswith(b"{") and any(word in head for word in (b'"error"', b'"message"', b'"detail"')):
        return "this is a server's error message: fetch the file itself"
    return None


def head_of(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def open_zip(file: Path) -> zipfile.ZipFile:
    """UserError if it is no readable zip, is encrypted, or unpacks to far more than it is."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        reason = (wrong_file(head_of(file)) if file.is_file() else None) or error
        raise UserError(f"{file} is not readable as zip: {reason}") from None
    check_unpacked(archive, file.stat().st_size, str(file))
    return archive


def check_unpacked(archive: zipfile.ZipFile, packed: int, where: str) -> None:
    """packed: bytes of the archive itself."""
    encrypted = next((entry.filename for entry in archive.infolist() if entry.flag_bits & ENCRYPTED), None)
    if encrypted is not None:
        raise UserError(f"{where}: {encrypted} is encrypted: unpack it first")
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(MAX_UNPACKED_BYTES, MAX_RATIO * packed):
        raise UserError(
            f"{where} has {packed} bytes, but {unpacked} unpacked, more than {MAX_RATIO} times as many: "
            "do not trust this file, or unpack it first"
        )
