"""Pictures from files of common formats, as uint8 [n, C, H, W]; an error names file and row of a bad picture.

A source is a folder of Parquet or Arrow files with an `image` column (shards of this project, or encoded pictures as
bytes or struct<bytes, path>), one such file, a folder or zip of picture files, or `.npz` or `.npy` with uint8 pictures.
"""

import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.data.decode import SUFFIXES, decode_picture, encoded_bytes, is_picture
from pipeline.data.records import BadRecord
from pipeline.data.shards import read_table as read_any
from pipeline.errors import ArtifactError, UserError

CHUNK = 512  # pictures in memory at once; a multiple of every extractor's tile
TABLE_SUFFIXES = frozenset({".parquet", ".arrow"})
ARRAY_SUFFIXES = frozenset({".npz", ".npy"})


class Picture(NamedTuple):
    image: np.ndarray  # [C, H, W] uint8
    where: str  # file and row, for messages


def read_chunks(source: Path) -> Iterator[np.ndarray]:
    """uint8 [n, C, H, W] with n <= CHUNK, all of one shape, in the order of the source."""
    try:
        pictures = iter(_one_shape(_pictures(source)))
        while chunk := [picture.image for picture in islice(pictures, CHUNK)]:
            yield np.stack(chunk)
    except BadRecord as error:
        raise UserError(str(error)) from None


def located(source: Path, folder: Path | None) -> Path:
    """`source`, or `folder / source` if only that exists."""
    if folder is None or source.exists() or table_files(source):
        return source
    return folder / source if (folder / source).exists() or table_files(folder / source) else source


def table_files(source: Path) -> list[Path]:
    """The Parquet or Arrow files of a folder, of one split (FOLDER/SPLIT), or the file itself; else none."""
    if source.suffix in TABLE_SUFFIXES:
        return [source] if source.is_file() else []
    folder, name = (source, "*") if source.is_dir() else (source.parent, f"{source.name}-*")
    return sorted(file for suffix in TABLE_SUFFIXES for file in folder.glob(name + suffix))


def splits_of(source: Path) -> list[str]:
    """Names of a folder's Parquet or Arrow files, up to their last dash."""
    return sorted({file.stem.rpartition("-")[0] for file in table_files(source)} - {""}) if source.is_dir() else []


def read_table(file: Path) -> pa.Table:
    """A Parquet or Arrow file with an `image` column."""
    try:
        table = read_any(file)
    except ArtifactError as error:
        raise UserError(str(error)) from None
    if "image" not in table.column_names:
        columns = ", ".join(table.column_names)
        raise UserError(f"{file} has no column `image`, but {columns}: rename the column of pictures")
    return table


def fixed_shape(table: pa.Table) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and type of a row in a shard of this project; None for encoded pictures."""
    column = table.schema.field("image")
    metadata = column.metadata or {}
    if b"shape" not in metadata or not pa.types.is_fixed_size_binary(column.type):
        return None
    return tuple(map(int, metadata[b"shape"].decode().split(","))), np.dtype(metadata[b"dtype"].decode())


def load_array(file: Path, *only: str) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, all or `only` these; that of an `.npy` is called `array`. Pickles are refused."""
    try:
        loaded = np.load(file, allow_pickle=False)
        if file.suffix != ".npz":
            return {"array": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files if not only or name in only}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is not readable as {file.suffix}: {error}") from None


def _pictures(source: Path) -> Iterator[Picture]:
    if files := table_files(source):
        return (picture for file in files for picture in _from_table(file))
    if not source.exists():
        raise UserError(f"{source} does not exist: pass a folder, .parquet, .zip, .npz or .npy of pictures")
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.is_file() and is_picture(path.relative_to(source)))
        if not files:
            pictures = f"pictures ({', '.join(sorted(SUFFIXES))})"
            raise UserError(f"{source} holds neither .parquet, .arrow nor {pictures}: pass another folder")
        return _decoded((str(path), path.read_bytes()) for path in files)
    if source.suffix in ARRAY_SUFFIXES:
        images = _channels_first(_picture_array(source), source)
        return (Picture(image, f"{source} row {row}") for row, image in enumerate(images))
    if source.suffix == ".zip":
        return _from_zip(source)
    raise UserError(f"{source}: pass a folder, .parquet, .zip, .npz or .npy of pictures")


def _from_table(file: Path) -> Iterator[Picture]:
    table = read_table(file)
    located = ((f"{file} row {row}", cell) for row, cell in enumerate(table["image"]))
    cells = ((where, encoded_bytes(cell, where)) for where, cell in located)
    stored = fixed_shape(table)
    if stored is None:
        return _decoded(cells)
    shape, dtype = stored
    if dtype != np.uint8 or len(shape) != 3:
        raise UserError(f"{file} holds {dtype} of shape {shape}, no pictures: measure points with --extractor none")
    return (Picture(np.frombuffer(content, np.uint8).reshape(shape), where) for where, content in cells)


def _from_zip(source: Path) -> Iterator[Picture]:
    try:
        with zipfile.ZipFile(source) as archive:
            names = sorted(name for name in archive.namelist() if is_picture(Path(name)))
            if not names:
                raise UserError(f"{source} holds no pictures ({', '.join(sorted(SUFFIXES))}): pass another file")
            yield from _decoded((f"{source} entry {name}", archive.read(name)) for name in names)
    except zipfile.BadZipFile as error:
        raise UserError(f"{source} is not readable as zip: {error}") from None


def _decoded(encoded: Iterable[tuple[str, bytes]]) -> Iterator[Picture]:
    return (Picture(decode_picture(content, where), where) for where, content in encoded)


def _picture_array(file: Path) -> np.ndarray:
    arrays = load_array(file)
    candidates = [array for array in arrays.values() if array.ndim in (3, 4)]
    if len(candidates) != 1:
        shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
        raise UserError(
            f"{file} holds {shapes}: pass one array of pictures, [n, H, W], [n, H, W, C] or [n, C, H, W], "
            "or measure features with --extractor none"
        )
    (images,) = candidates
    if images.dtype != np.uint8:
        outside = ~((images >= 0) & (images <= 255)).reshape(len(images), -1).all(axis=1)
        first = f"row 0 has values from {images[0].min():.4g} to {images[0].max():.4g}"
        if outside.any():
            first = f"row {outside.argmax()} has values outside 0..255"
        raise UserError(f"{file}: {images.dtype} pictures, {first}: scale to 0..255, round and pass uint8")
    return images


def _channels_first(images: np.ndarray, file: Path) -> np.ndarray:
    if images.ndim == 3:
        return images[:, None]
    first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if first == last:
        raise UserError(
            f"{file}: {images.shape} has no clear axis of colour: pass [n, H, W, C] or [n, C, H, W], C = 1 or 3"
        )
    return images if first else images.transpose(0, 3, 1, 2)


def _one_shape(pictures: Iterator[Picture]) -> Iterator[Picture]:
    first: Picture | None = None
    for picture in pictures:
        first = first or picture
        if picture.image.shape != first.image.shape:
            here, there = describe(picture.image.shape), describe(first.image.shape)
            raise UserError(
                f"{picture.where} is {here}, but {first.where} is {there}: convert all to one size and colour"
            )
        yield picture


def describe(shape: tuple[int, ...]) -> str:
    """(C, H, W) in words."""
    channels, height, width = shape
    colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    return f"{colour} {width}x{height}"
