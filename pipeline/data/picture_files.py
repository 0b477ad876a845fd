"""The pictures of a folder or zip by relative path, for `prepare` and `measure` alike."""

import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from pipeline.data.decode import is_hidden, is_picture
from pipeline.data.foreign_files import open_zip
from pipeline.data.records import BadRecord
from pipeline.errors import UserError

MAX_FILE_BYTES = 2**28
HELD_OUT_NAMES = ("test", "val", "validation")  # folders of splits beside `train`
SPLIT_NAMES = frozenset({"train", "training", "testing", "valid", "dev", "eval", *HELD_OUT_NAMES})


class PictureFiles:
    """UserError if a name leads out of the source, or a folder is a link."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = None if path.is_dir() else open_zip(path)
        found = Counter(files_below(path) if self._archive is None else self._entries(self._archive))
        self._all, self._repeated = sorted(found), [name for name, count in found.items() if count > 1]
        self.names = [name for name in self._all if is_picture(PurePosixPath(name))]

    def left_out(self, used: Collection[str] = ()) -> list[str]:
        """Files that are no pictures, and entries that others replace. used: files that were read as something else."""
        others = [name for name in self.left_over() if name not in used]
        repeated = others_in_words("all but the last of several entries of one name", self._repeated)
        return others_in_words("files that are no pictures by their names", others) + repeated

    def left_over(self) -> list[str]:
        """Paths of the files that are no pictures."""
        return sorted({*self._all} - {*self.names})

    def has(self, name: str) -> bool:
        return name in self._known

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self._all)

    def named(self, file: str) -> list[str]:
        """Paths of all files of this name, in any folder."""
        return [name for name in self._all if PurePosixPath(name).name == file]

    def read(self, name: str) -> bytes:
        where = f"{self.path}/{name}"
        archive = self._archive
        size = (self.path / name).stat().st_size if archive is None else archive.getinfo(name).file_size
        if size > MAX_FILE_BYTES:
            raise BadRecord(f"{where} has {size} bytes, more than the {MAX_FILE_BYTES} allowed")
        try:
            return (self.path / name).read_bytes() if archive is None else archive.read(name)
        except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BadRecord(f"{where} cannot be read: {' '.join(str(error).split())}") from None

    def _entries(self, archive: zipfile.ZipFile) -> Iterator[str]:
        for entry in archive.infolist():
            path = PurePosixPath(entry.filename)
            if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(entry.external_attr >> 16):
                raise _leads_out(self.path, entry.filename)
            if not entry.is_dir():
                yield entry.filename


def files_below(folder: Path) -> Iterator[str]:
    """Relative paths of all files. Links to folders are refused: their content would not be part of the key."""

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}")

    inside = folder.resolve()
    for place, folders, files in os.walk(folder, onerror=unreadable):
        for name in folders:
            if (link := Path(place, name)).is_symlink():
                raise UserError(
                    f"{link} is a link to a folder: move {link.readlink()} here, or set the path to a folder that "
                    "holds everything"
                )
        for name in files:
            file = Path(place, name)
            if file.is_symlink() and not file.exists():
                raise UserError(f"{file} is a link to {file.readlink()}, which does not exist: repair or remove it")
            if file.is_symlink() and not file.resolve().is_relative_to(inside):
                raise _leads_out(folder, name)
            if file.is_file():
                yield file.relative_to(folder).as_posix()


def others_in_words(what: str, names: Collection[str]) -> list[str]:
    """How many files of which suffixes, in one line; empty if there are none."""
    if not names:
        return []
    hidden = [name for name in names if is_hidden(PurePosixPath(name))]
    kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in {*names} - {*hidden})
    parts = [f"{count} {kind}" for kind, count in sorted(kinds.items())] + ([f"{len(hidden)} hidden"] if hidden else [])
    return [f"{what}: {len(names)} ({', '.join(parts)}), such as {min(names)}"]


def _leads_out(path: Path, name: str) -> UserError:
    return UserError(f"{path}: {name!r} leads out of it: take it out, or do not use these data")
