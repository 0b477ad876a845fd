"""Pictures from files of common formats, as uint8 [n, C, H, W]; an error names file and row of a bad picture.

A source is a folder of Parquet or Arrow files with an `image` column (shards of this project, or encoded pictures as
bytes or struct<bytes, path>), one such file, a folder or zip of picture files, or `.npz` or `.npy` with uint8 pictures.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from pipeline.data.artifacts import MANIFEST
from pipeline.data.decode import SUFFIXES, EncodedPicture, Preprocess, encoded_bytes
from pipeline.data.picture_files import SPLIT_NAMES, PictureFiles, files_below, others_in_words
from pipeline.data.records import BadRecord
from pipeline.errors import ArtifactError, UserError
from pipeline.metrics.standalone import numpy_files
from pipeline.metrics.standalone.intake import Intake
from pipeline.metrics.standalone.label_files import ARRAY as LABELS
from pipeline.metrics.standalone.numpy_files import array_headers, load_array
from pipeline.metrics.standalone.table_files import IMAGE, LABEL, SEED, fixed_shape, read_batches, table_files
from pipeline.metrics.standalone.table_files import SUFFIXES as TABLES

CHUNK = 512  # pictures in memory at once; a multiple of every extractor's tile


class Picture(NamedTuple):
    image: np.ndarray  # [C, H, W] uint8
    where: str  # file and row, for messages


def read_chunks(source: Path, intake: Intake | None = None) -> Iterator[np.ndarray]:
    """uint8 [n, C, H, W] with n <= CHUNK, all of one shape, in the order of the source."""
    intake = Intake() if intake is None else intake
    try:
        pictures = iter(_one_shape(_pictures(source, intake)))
        while chunk := [picture.image for picture in islice(pictures, CHUNK)]:
            images = np.ascontiguousarray(np.stack(chunk))  # kernels round otherwise for another layout in memory
            intake.largest = max(intake.largest or 0, int(images.max(initial=0)))
            yield images
    except (BadRecord, ArtifactError) as error:
        raise UserError(str(error)) from None


def located(source: Path, folder: Path | None) -> Path:
    """`source`, or `folder / source` if only that exists."""
    if folder is None or source.exists() or table_files(source):
        return source
    return folder / source if (folder / source).exists() or table_files(folder / source) else source


def _pictures(source: Path, intake: Intake) -> Iterator[Picture]:
    if files := table_files(source):
        intake.left_out += _beside_tables(source, files)
        return (picture for file in files for picture in _from_table(file, intake))
    if not source.exists():
        raise UserError(f"{source} does not exist: pass a folder, .parquet, .zip, .npz or .npy of pictures")
    if source.suffix in numpy_files.SUFFIXES:
        images = _channels_first(_picture_array(source, intake), source)
        return (Picture(image, f"{source} row {row}") for row, image in enumerate(images))
    if source.is_dir() or source.suffix == ".zip":
        return _from_files(PictureFiles(source), intake)
    raise UserError(f"{source}: pass a folder, .parquet, .zip, .npz or .npy of pictures")


def _beside_tables(source: Path, files: list[Path]) -> list[str]:
    """Files of a folder that are not read, in words; not of an artifact, whose manifest lists all files."""
    if not source.is_dir() or (source / MANIFEST).is_file():
        return []
    return others_in_words("other files", [name for name in files_below(source) if source / name not in files])


def _from_files(files: PictureFiles, intake: Intake) -> Iterator[Picture]:
    if not files.names:
        tables = sorted({name.rpartition("/")[0] for name in files.left_over() if Path(name).suffix in TABLES})
        if tables:
            raise UserError(f"{files.path} holds tables in {', '.join(tables)}: pass one of these folders")
        pictures = f"pictures ({', '.join(sorted(SUFFIXES))})"
        raise UserError(f"{files.path} holds neither .parquet, .arrow nor {pictures}: pass another source")
    intake.left_out += files.left_out()
    splits = sorted({PurePosixPath(name).parts[0] for name in files.names} & SPLIT_NAMES)
    if len(splits) > 1:
        intake.notes.append(f"holds {', '.join(splits)}: all are read; a folder such as {splits[0]} reads one")
    named = ((f"{files.path}/{name}", name) for name in files.names)
    return _decoded((EncodedPicture(partial(files.read, name), where, Preprocess()) for where, name in named), intake)


def _from_table(file: Path, intake: Intake) -> Iterator[Picture]:
    schema, batches = read_batches(file, IMAGE)
    others = sorted({*schema.names} - {IMAGE, LABEL, SEED})
    if others and (line := f"columns {', '.join(others)}") not in intake.left_out:
        intake.left_out.append(line)
    cells = (cell for batch in batches for cell in batch[IMAGE])
    located = ((f"{file} row {row}", cell) for row, cell in enumerate(cells))
    stored = fixed_shape(schema)
    if stored is None:
        encoded = (EncodedPicture(partial(encoded_bytes, cell, where), where, Preprocess()) for where, cell in located)
        return _decoded(encoded, intake)
    shape, dtype = stored
    if dtype != np.uint8 or len(shape) != 3:
        raise UserError(f"{file} holds {dtype} of shape {shape}, no pictures: measure points with --extractor none")
    values = ((where, encoded_bytes(cell, where)) for where, cell in located)
    return (Picture(np.frombuffer(content, np.uint8).reshape(shape), where) for where, content in values)


def _decoded(pictures: Iterable[EncodedPicture], intake: Intake) -> Iterator[Picture]:
    for picture in pictures:
        image, changes = picture.decoded()
        intake.changed.update(changes)
        yield Picture(image, picture.where)


def _picture_array(file: Path, intake: Intake) -> np.ndarray:
    headers = array_headers(file)
    candidates = [name for name, header in headers.items() if len(header.shape) in (3, 4) and header.is_numeric]
    if len(candidates) != 1:
        raise UserError(
            f"{file} holds {numpy_files.described(headers.items())}: pass one array of pictures, [n, H, W], "
            "[n, H, W, C] or [n, C, H, W], or measure features with --extractor none"
        )
    (name,) = candidates
    intake.left_out += numpy_files.others_in_words(headers, name, LABELS)
    images = load_array(file, name)[name]
    if images.dtype != np.uint8 and len(images):
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
