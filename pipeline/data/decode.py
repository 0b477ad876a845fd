"""Encoded images: recognise their files, take them from a table's cell, decode them to uint8 [C, H, W]."""

import io
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.data.records import BadRecord

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MODES = {"L": "L", "1": "L", "RGB": "RGB", "YCbCr": "RGB"}  # of a picture file -> how it is read
Filter = Literal["box", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Preprocess:
    """Changes to an image before it is stored. PIL's filters antialias."""

    crop: int | Literal["square"] | None = None  # the middle so many pixels, or the largest middle square
    size: int | None = None  # pixels per side afterwards
    filter: Filter = "lanczos"  # of resizing; EDM's data: lanczos
    halve_first: bool = False  # as ADM, with bicubic: halve by boxes while twice too large, crop last
    colour: Literal["as it is", "rgb", "grey"] = "as it is"

    def __post_init__(self) -> None:
        for name in ("crop", "size"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"preprocess.{name}: {value} came, at least 1 was wanted")
        if self.halve_first and (isinstance(self.crop, int) or self.size is None):
            raise ValueError("preprocess.halve_first: wants a size, and crop square or none")


def is_picture(path: PurePath) -> bool:
    """By its suffix; hidden files and those that macOS adds to archives are not pictures."""
    is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not is_hidden


def encoded_bytes(cell: Any, where: str) -> bytes:
    """The encoded picture in a table's cell: bytes, or a struct with the field `bytes`. where: file and row."""
    value = cell.as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise BadRecord(f"{where}: `image` is {type(content).__name__}, wanted the bytes of a picture")
    return content


def decode_picture(content: bytes, where: str, preprocess: Preprocess | None = None) -> np.ndarray:
    """uint8 [C, H, W]. where: file and row, for the error."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise BadRecord(f"{where} is animated: take one frame out of it")
            values = np.asarray(_resized(_eight_bit(image, where), where, preprocess or Preprocess()))
            return values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))
    except UnidentifiedImageError:  # whose own text holds an address in memory
        why = "no known format" if content else "it is empty"
        raise BadRecord(f"{where} is not a readable picture: {why}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadRecord(f"{where} is not a readable picture: {error}") from None


def _eight_bit(image: Image.Image, where: str) -> Image.Image:
    """Grey or RGB; colour tables are looked up, an alpha channel is dropped if nothing shows through."""
    if image.mode in ("P", "PA", "LA", "RGBA"):
        with_alpha = image.convert("RGBA")
        if with_alpha.getchannel("A").getextrema() != (255, 255):
            raise BadRecord(f"{where} is transparent in places: put it on a background first")
        image = with_alpha.convert("L" if image.mode == "LA" else "RGB")
    if image.mode not in MODES:
        raise BadRecord(f"{where} has mode {image.mode}: pass 8-bit grey or RGB")
    return image.convert(MODES[image.mode])


def _resized(image: Image.Image, where: str, how: Preprocess) -> Image.Image:
    if how.colour != "as it is":
        image = image.convert("L" if how.colour == "grey" else "RGB")
    if how.crop is not None and not how.halve_first:
        image = _cropped(image, min(image.size) if how.crop == "square" else how.crop, where)
    if how.size is None:
        return image
    if how.halve_first:
        while min(image.size) >= 2 * how.size:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    to = (how.size, how.size)
    if image.width != image.height:
        if not (how.halve_first and how.crop):
            raise BadRecord(f"{where} is {image.width}x{image.height}: set preprocess.crop to square")
        scale = how.size / min(image.size)
        to = (round(image.width * scale), round(image.height * scale))
    if image.size != to:
        image = image.resize(to, Image.Resampling[how.filter.upper()])
    return _cropped(image, how.size, where)


def _cropped(image: Image.Image, side: int, where: str) -> Image.Image:
    """The central square of `side` pixels."""
    if side > min(image.size):
        raise BadRecord(f"{where} is {image.width}x{image.height}, too small to crop {side} pixels out of")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
