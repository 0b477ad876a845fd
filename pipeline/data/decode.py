"""Encoded images: recognise their files, take them from a table's cell, decode them to uint8 [C, H, W].

This is the only place where a picture file becomes pixels, for `prepare` and `measure` alike. Pixels are those that
viewers show and that the loaders of ADM and EDM give, who convert by Pillow to RGB; `PIXELS` lists the rules.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from methods.core.numbers import Count
from pipeline.data.foreign_files import wrong_file
from pipeline.data.records import BadRecord

warnings.filterwarnings("ignore", module=r"PIL\.")  # on broken tags and large pictures, which `decode` settles
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM")  # no others: PostScript is a program
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
COLOUR, LEVELS = ("P", "PA", "RGB", "RGBA", "RGBa", "YCbCr", "CMYK"), ("1", "L", "LA", "La")
MODES: dict[str, str] = {**dict.fromkeys(COLOUR, "RGB"), **dict.fromkeys(LEVELS, "L")}  # of a file -> as it is read
ORIENTATION = 0x0112  # EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_PIXELS = 2**26  # of one picture; ImageNet's largest has 61 million
PIXELS = (
    "as viewers show them: turned by EXIF orientation, CMYK to RGB, colour tables looked up, opaque alpha dropped, "
    "the main picture of a JPEG with several, the high byte of 16-bit colour; colour profiles are not applied"
)
Filter = Literal["box", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Preprocess:
    """Changes to an image before it is stored. PIL's filters antialias."""

    crop: Count | Literal["square"] | None = None  # the middle so many pixels, or the largest middle square
    size: Count | None = None  # pixels per side afterwards
    filter: Filter = "lanczos"  # of resizing; EDM's data: lanczos
    halve_first: bool = False  # as ADM, with bicubic: halve by boxes while twice too large, crop last
    colour: Literal["as it is", "rgb", "grey"] = "as it is"

    def __post_init__(self) -> None:
        if self.halve_first and (isinstance(self.crop, int) or self.size is None):
            raise ValueError("preprocess.halve_first: wants a size, and crop square or none")


class Decoded(NamedTuple):
    image: np.ndarray  # [C, H, W] uint8
    conversions: tuple[str, ...]  # which rules of `PIXELS` changed it


class EncodedPicture(NamedTuple):
    """A picture in a file or a table's cell, decoded by a call."""

    read: Callable[[], bytes]
    where: str  # file and row, for errors
    preprocess: Preprocess

    def __call__(self) -> np.ndarray:
        return self.decoded().image

    def decoded(self) -> Decoded:
        return decode(self.read(), self.where, self.preprocess)


def is_picture(path: PurePath) -> bool:
    """By its suffix; hidden files are not pictures."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path)


def is_hidden(path: PurePath) -> bool:
    """Those that macOS adds to archives too."""
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def encoded_bytes(cell: Any, where: str) -> bytes:
    """The encoded picture in a table's cell: bytes, or a struct with the field `bytes`. where: file and row."""
    value = cell.as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise BadRecord(f"{where}: `image` is {type(content).__name__}, wanted the bytes of a picture")
    return content


def decode_picture(content: bytes, where: str, preprocess: Preprocess | None = None) -> np.ndarray:
    """The image alone of `decode`."""
    return decode(content, where, preprocess).image


def decode(content: bytes, where: str, preprocess: Preprocess | None = None) -> Decoded:
    """where: file and row, for the error. BadRecord if the picture cannot be used."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise BadRecord(f"{where} is animated: take one frame out of it")
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height}"
                raise BadRecord(f"{where} is {size}, more than the {MAX_PIXELS} pixels allowed: make it smaller")
            visible, conversions = _as_seen(image, where)
            values = np.asarray(_resized(visible, where, preprocess or Preprocess()))
    except BadRecord:
        raise
    except UnidentifiedImageError:  # whose own text holds an address in memory
        why = wrong_file(content) or f"no known format ({', '.join(FORMATS)})"
        raise BadRecord(f"{where} is not a readable picture: {why}") from None
    except Exception as error:  # a broken file may raise anything
        why = " ".join(ascii(str(error))[1:-1].split()) or type(error).__name__
        raise BadRecord(f"{where} is not a readable picture: {why}") from None
    return Decoded(values[None] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1)), conversions)


def _as_seen(image: Image.Image, where: str) -> tuple[Image.Image, tuple[str, ...]]:
    """Grey or RGB, by the rules of `PIXELS`, and those that applied."""
    if image.mode not in MODES:
        raise BadRecord(f"{where} has mode {image.mode}: pass 8-bit grey or RGB")
    applied = {
        "main picture of several": image.format == "MPO",
        "high byte of 16 bits": any(";16" in str(tile.args) for tile in getattr(image, "tile", ())),
        "colour table looked up": image.mode in ("P", "PA"),
        "CMYK to RGB": image.mode == "CMYK",
    }
    tag = _orientation(image)
    image.load()
    turn = TURNS.get(_orientation(image))  # none for TIFF, which Pillow turns as it loads
    to = MODES[image.mode]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise BadRecord(f"{where} is transparent in places: put it on a background first")
        applied["opaque alpha dropped"] = True
    applied["turned by EXIF"] = tag in TURNS
    image = image.convert(to)
    image = image if turn is None else image.transpose(turn)
    return image, tuple(rule for rule, has_applied in applied.items() if has_applied)


def _orientation(image: Image.Image) -> int:
    """1: as stored; of a broken tag too, which viewers ignore."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1


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
