"""Arrays of `.npz` and `.npy` files: described by their headers first, then only the wanted ones are read."""

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import IO, NamedTuple

import numpy as np

from pipeline.data.foreign_files import head_of, open_zip, wrong_file
from pipeline.errors import UserError

SUFFIXES = frozenset({".npz", ".npy"})
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    RuntimeError,
    MemoryError,
    OverflowError,
    SyntaxError,
    TokenError,
)


class Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def is_numeric(self) -> bool:
        return self.dtype.kind in "uif"


def array_headers(file: Path) -> dict[str, Header]:
    """Of every array; that of an `.npy` is called `array`. UserError if a header promises more than the file holds."""
    try:
        return dict(_headers(file))
    except UNREADABLE as error:
        raise _unreadable(file, error) from None


def load_array(file: Path, *only: str) -> dict[str, np.ndarray]:
    """The arrays, all or only these; that of an `.npy` is called `array`. Python objects are refused."""
    headers = array_headers(file)
    names = [name for name in headers if not only or name in only]
    for name in names:
        if headers[name].dtype.hasobject:
            raise UserError(f"{file}: `{name}` holds Python objects, which are not read: save numbers")
    try:
        loaded = np.load(file, allow_pickle=False)
        if file.suffix != ".npz":
            return {"array": loaded}
        with loaded:
            return {name: loaded[name] for name in names}
    except UNREADABLE as error:
        raise _unreadable(file, error) from None


def described(headers: Iterable[tuple[str, Header]]) -> str:
    parts = (f"{name} {'objects' if dtype.hasobject else dtype} {shape}" for name, (shape, dtype) in headers)
    return ", ".join(parts) or "nothing"


def others_in_words(headers: dict[str, Header], *used: str) -> list[str]:
    """The arrays beside the used ones, in one line; empty if there are none."""
    others = [(name, header) for name, header in headers.items() if name not in used]
    return [f"arrays {described(others)}"] if others else []


def _headers(file: Path) -> Iterator[tuple[str, Header]]:
    if file.suffix == ".npy":
        with file.open("rb") as stream:
            yield "array", _header(stream, file.stat().st_size, f"{file}")
        return
    with open_zip(file) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                name = entry.filename.removesuffix(".npy")
                with archive.open(entry) as stream:
                    yield name, _header(stream, entry.file_size, f"{file}: `{name}`")


def _header(stream: IO[bytes], size: int, where: str) -> Header:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if not dtype.hasobject and prod(shape) * dtype.itemsize > size - stream.tell():
        raise UserError(f"{where} is {dtype} {shape}, but the file ends earlier: fetch or save it again")
    return Header(shape, dtype)


def _unreadable(file: Path, error: Exception) -> UserError:
    reason = wrong_file(head_of(file)) or " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{file} is not readable as {file.suffix}: {reason}")
