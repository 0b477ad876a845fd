"""Outlines of ten digits in 16 of matplotlib's fonts, read and filled as integers: the same bytes on every machine."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.errors import UserError

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont

DIGITS = 10
FONTS = {  # by family: regular, slanted, bold, bold and slanted
    "sans": ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSans-BoldOblique"),
    "mono": ("DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique"),
    "serif": ("DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"),
    "roman": ("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "STIXGeneralBolIta"),
}
LINES, STEPS = 8, 32  # scan lines of a pixel, and vertical positions of a line
ACROSS, DOWN = 256, LINES * STEPS  # positions of a pixel in each direction
CHORDS = 4  # of a curve, at equal steps of its parameter
OUTLINES_SHA256 = "8709c1255c5acf81c1a4bc226854a3fdc03b61400bceab3fb404a52cb7eeb361"  # of matplotlib 3.8 to 3.11


@lru_cache(maxsize=1)
def outlines() -> tuple[np.ndarray, ...]:
    """Of every digit in every font, in the order family, weight, slant, digit.

    Each is [segments, 4] int64: x0, y0, x1, y1 of directed segments in 1/32 of the font's units, y upwards.
    """
    return tuple(shape for fonts in FONTS.values() for font in fonts for shape in _digits(font))


@lru_cache(maxsize=1)
def outlines_sha256() -> str:
    """Of the coordinates, 64 hexadecimal digits: whatever else the font files hold does not matter."""
    digest = hashlib.sha256()
    for shape in outlines():
        digest.update(shape.astype("<i8").tobytes())
    return digest.hexdigest()


class Catalogue(NamedTuple):
    """All outlines, one after the other."""

    every: np.ndarray  # [segments, 4] float64
    starts: np.ndarray  # [outlines]
    counts: np.ndarray  # [outlines]
    zero_height: np.ndarray  # [fonts]

    def segments(self, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of n outlines: which of them a segment belongs to, ascending, and the segment, [S, 4]."""
        owner, number = _numbered(self.counts[shapes])
        return owner, self.every[self.starts[shapes][owner] + number]


class Placed(NamedTuple):
    """Outlines within n pictures; y downwards, in steps of 1 / DOWN pixel, x of 1 / ACROSS."""

    n: int
    owner: np.ndarray  # [S]: the picture of a segment
    x: np.ndarray  # [S, 2] int64: both ends
    y: np.ndarray  # [S, 2] int64


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    shapes = outlines()
    counts = np.array([len(shape) for shape in shapes])
    heights = [np.ptp(zero[:, 1::2]) for zero in shapes[::DIGITS]]
    return Catalogue(np.concatenate(shapes).astype(float), np.cumsum(counts) - counts, counts, np.array(heights, float))


def coverage(shapes: Placed, side: int) -> np.ndarray:
    """[n, side, side] float64: the share of each pixel that lies within the outlines, a multiple of 1 / 2048.

    On LINES scan lines per pixel, areas are exact in x. A crossing fills what lies right of it, with the sign of the
    segment's direction, for winding numbers of 0 and 1.
    """
    low, high = np.sort(shapes.y, axis=1).T
    first, end = ((edge + STEPS // 2 - 1) // STEPS for edge in (low, high))  # lines with low <= middle < high
    segment, number = _numbered(end - first)
    line = first[segment] + number
    (x0, x1), (y0, y1) = shapes.x[segment].T, shapes.y[segment].T
    cross = x0 + (x1 - x0) * (STEPS * line + STEPS // 2 - y0) // (y1 - y0)
    sign = np.where(y1 > y0, 1, -1)
    column, within = cross // ACROSS, cross % ACROSS
    width = side + 2  # what lies right of the picture falls into two columns more
    pixel = (shapes.owner[segment] * side + line // LINES) * width + column
    here, further = (
        np.bincount(pixel + k, sign * part, shapes.n * side * width) for k, part in enumerate((ACROSS - within, within))
    )
    filled = np.abs(np.cumsum((here + further).reshape(-1, side, width), axis=2)[:, :, :side])
    return np.minimum(filled, LINES * ACROSS) / (LINES * ACROSS)


def _numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts [2, 3]: (0, 0, 1, 1, 1) and (0, 1, 0, 1, 2)."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _digits(font: str) -> list[np.ndarray]:
    import matplotlib
    from fontTools.ttLib import TTFont, TTLibError

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    try:
        with TTFont(file, lazy=True) as content:
            names = content.getBestCmap() or {}
            return [_outline(content, names[ord("0") + digit]) for digit in range(DIGITS)]
    except (OSError, TTLibError) as error:
        raise UserError(
            f"{file} cannot be read ({error}): this matplotlib came without its fonts, pip install matplotlib has them"
        ) from None


def _outline(font: "TTFont", name: str) -> np.ndarray:
    table, bearing = font["glyf"], font["hmtx"][name][1]
    points, last, flags = table[name].getCoordinates(table)  # of all contours; `last`: of each, its last point's number
    units = np.array(points, np.int64) + np.array([bearing - table[name].xMin, 0])
    is_on, cuts = np.frombuffer(bytes(flags), np.uint8) & 1, np.array(last[:-1]) + 1
    contours = zip(np.split(2 * units, cuts), np.split(is_on, cuts))  # doubled: the middle of two points is whole
    return np.array([segment for contour in contours for segment in _segments(*contour)])


def _segments(points: np.ndarray, is_on: np.ndarray) -> Iterator[np.ndarray]:
    """points: [n, 2], on a closed quadratic spline or its control points; between two of these lies an implied one."""
    if not is_on.any():
        points, is_on = np.concatenate([points, (points[-1:] + points[:1]) // 2]), np.append(is_on, 1)
    turn = -1 - int(is_on.argmax())  # to end in a point on the curve, which is where it starts, too
    points, is_on = np.roll(points, turn, axis=0), np.roll(is_on, turn)
    start, control = points[-1], None
    for number, point in enumerate(points):
        if control is not None:
            end = point if is_on[number] else (control + point) // 2
            yield from _chords(start, control, end)
            start = end
        elif is_on[number] and (number < len(points) - 1 or (start != point).any()):
            yield 16 * np.concatenate([start, point])
            start = point
        control = None if is_on[number] else point


def _chords(start: np.ndarray, control: np.ndarray, end: np.ndarray) -> Iterator[np.ndarray]:
    """Of one quadratic curve, times 16."""
    steps = range(CHORDS + 1)
    on = [(CHORDS - j) ** 2 * start + 2 * j * (CHORDS - j) * control + j * j * end for j in steps]
    yield from (np.concatenate(pair) for pair in pairwise(on))
