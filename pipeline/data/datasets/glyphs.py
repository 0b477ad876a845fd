"""One digit per picture, filled from a font's outline, with every attribute known and a caption that is true of it.

Pictures are unlimited, and a function of stream and index alone. All arithmetic is of integers, or of float64 with
+ - * / only, so pictures have the same bytes on every machine.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import numpy as np

from methods.core.numbers import Count, CountOrZero
from pipeline.data.glyph_outlines import (
    ACROSS,
    DIGITS,
    DOWN,
    FONTS,
    OUTLINES_SHA256,
    Placed,
    catalogue,
    coverage,
    outlines_sha256,
)
from pipeline.data.records import Record
from pipeline.errors import UserError

VERSION = 1  # of the distribution: another one draws other pictures
CHARACTERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FAMILIES = tuple(FONTS)
WEIGHTS, SLANTS = ("regular", "bold"), ("upright", "slanted")
HEIGHTS = {"small": (0.38, 0.44), "medium": (0.54, 0.60), "large": (0.72, 0.78)}  # of the font's zero, over the side
VERTICAL, HORIZONTAL = ("top", "middle", "bottom"), ("left", "centre", "right")
PLACES = np.array([0.0, 0.4, 0.8])  # of the free room, to which up to 0.2 of it is added
COLOURS = {
    "black": (0, 0, 0), "white": (255, 255, 255), "red": (255, 0, 0),
    "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0),
}  # fmt: skip
VOCABULARY = (
    *("<pad>", "<null>", "a", "in", "on"),
    *(*CHARACTERS, *FAMILIES, *WEIGHTS, *SLANTS, *HEIGHTS, *VERTICAL, *HORIZONTAL, *COLOURS),
)
WORDS = ("a", "weight", "slant", "family", "character", "in", "ink", "on", "paper", "size", "vertical", "horizontal")
TOKENS = 13  # of a caption, the padding included
CENTRED_SHIFT = 0.06  # of the side, each way
TILT = 0.0437  # tan(angle / 2) of the largest rotation, 5 degrees
LEVELS = 32  # by which a channel is lighter than black or darker than white at most
BLOCK = 512  # pictures made at once


class Glyphs(NamedTuple):
    """n pictures with what is known of them."""

    images: np.ndarray  # [n, C, side, side] uint8
    attributes: np.ndarray  # [n, A] int8: the number of each attribute's value
    tokens: np.ndarray  # [n, TOKENS] int8: the caption, padded with 0


@dataclass(frozen=True)
class Source:
    """Digits in four families of fonts, with attributes and captions. A tenth of the shapes is in no training picture.

    Every pair of character, family and style is in some: a split `unseen` of the other shapes tests composition.
    """

    side: Literal[16, 32] = 16  # pixels
    colour: bool = False  # six colours of ink and paper instead of black and white
    layout: Literal["free", "centred"] = "free"  # centred: in the middle, medium and large only
    train: Count = 20_000  # pictures of each split
    held_out: Count = 10_000  # of the same distribution
    unseen: CountOrZero = 2_000  # of the shapes that are in no training picture
    classifier: CountOrZero = 40_000  # of all shapes, to train the feature network on; 0: it is trained on `train`
    outlines: str = OUTLINES_SHA256  # SHA-256 of the fonts' outlines; any: as matplotlib has them here

    def __post_init__(self) -> None:
        if self.held_out < 2:
            raise ValueError(f"held_out: {self.held_out} came, at least 2 was wanted")

    @property
    def label_names(self) -> tuple[str, ...]:
        return CHARACTERS

    @property
    def attribute_names(self) -> dict[str, tuple[str, ...]]:
        """Attributes that are the same in every picture are left out."""
        colours = tuple(COLOURS) if self.colour else tuple(COLOURS)[:2]
        names = {"character": CHARACTERS, "family": FAMILIES, "weight": WEIGHTS, "slant": SLANTS, "size": self._sizes}
        places = {"vertical": VERTICAL, "horizontal": HORIZONTAL} if self.layout == "free" else {}
        return names | places | {"ink": colours, "paper": colours}

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return VOCABULARY

    @property
    def facts(self) -> dict[str, Any]:
        return {"outlines_sha256": outlines_sha256()}

    def records(self) -> Iterator[Record]:
        if self.outlines not in ("any", found := outlines_sha256()):
            raise UserError(
                f"options.outlines: matplotlib's fonts have outlines {found}, {self.outlines} was wanted: install "
                "matplotlib with its own fonts (pip install matplotlib), or set options.outlines: any"
            )
        unseen = self.classifier // 10
        for split, stream, count in (
            ("train", "train", self.train),
            ("held_out", "held_out", self.held_out),
            ("unseen", "unseen", self.unseen),
            ("classifier", "judge", self.classifier - unseen),  # names of streams are part of the pictures
            ("classifier", "unseen-judge", unseen),
        ):
            for start in range(0, count, BLOCK):
                indices = range(start, min(start + BLOCK, count))
                made = self.glyphs(stream, indices)
                known = zip(indices, made.images, made.attributes.tolist(), made.tokens.tolist())
                for index, image, attributes, tokens in known:
                    yield Record(image, attributes[0], split, f"glyphs, {stream} {index}", attributes, tokens)

    def glyphs(self, stream: str, indices: Sequence[int]) -> Glyphs:
        """The pictures of a stream at these indices; only those of a stream "unseen..." have the unseen shapes.

        Picture i has the same shape, tilt and place within its room at any side, in grey and in colour.
        """
        draws = Draws.accepted(stream, indices, self._is_wrong)
        values = self._values(draws)
        fill = coverage(self._placed(values, draws), self.side)
        ink, paper = (self._levels(which, values[which], draws)[:, :, None, None] for which in ("ink", "paper"))
        images = np.rint(paper + (ink - paper) * fill[:, None]).astype(np.uint8)
        attributes = np.stack([values[name] for name in self.attribute_names], axis=1).astype(np.int8)
        return Glyphs(images, attributes, self._captions(values, draws))

    @property
    def _sizes(self) -> tuple[str, ...]:
        return tuple(HEIGHTS)[self.layout == "centred" :]

    def _is_wrong(self, draws: "Draws") -> np.ndarray:
        """Whether a picture's shape belongs to the other kind of streams. One shape of every font is unseen."""
        character, family = draws.choice("character", DIGITS), draws.choice("family", len(FAMILIES))
        style = 2 * draws.choice("weight", 2) + draws.choice("slant", 2)
        is_unseen = (character + family + len(FAMILIES) * style) % 10 == 0
        return is_unseen != draws.stream.startswith("unseen")

    def _values(self, draws: "Draws") -> dict[str, np.ndarray]:
        """The number of each attribute's value. Paper is any colour but the ink's."""
        names = self.attribute_names
        values = {name: draws.choice(name, len(names[name])) for name in names if name != "paper"}
        colours = len(names["paper"])
        return values | {"paper": (values["ink"] + 1 + draws.choice("paper", colours - 1)) % colours}

    def _placed(self, values: dict[str, np.ndarray], draws: "Draws") -> Placed:
        """The outlines, scaled, tilted and moved, in whole steps of a scan line and of a pixel's width."""
        font = (values["family"] * 2 + values["weight"]) * 2 + values["slant"]
        shapes = catalogue()
        owner, segments = shapes.segments(font * DIGITS + values["character"])
        low, high = np.array([HEIGHTS[name] for name in self._sizes])[values["size"]].T
        scale = (low + (high - low) * draws.uniform("height")) * self.side / shapes.zero_height[font]
        t = TILT * (2 * draws.uniform("tilt") - 1)
        c, s, scale = ((part[owner, None]) for part in ((1 - t * t) / (1 + t * t), 2 * t / (1 + t * t), scale))
        x, y = segments[:, ::2], segments[:, 1::2]  # [S, 2]: both ends
        across, down = scale * (c * x - s * y), -scale * (s * x + c * y)
        starts = np.searchsorted(owner, np.arange(len(font)))
        moved = [
            self._moved(along, starts, owner, name, values, draws)
            for name, along in (("horizontal", across), ("vertical", down))
        ]
        x, y = (np.rint(part * steps).astype(np.int64) for part, steps in zip(moved, (ACROSS, DOWN)))
        return Placed(len(font), owner, x, y)

    def _moved(
        self, along: np.ndarray, starts: np.ndarray, owner: np.ndarray, name: str, values: Any, draws: "Draws"
    ) -> np.ndarray:
        """One direction's coordinates, moved into the picture: to a third of the free room, or to its middle."""
        first, last = np.minimum.reduceat(along.min(axis=1), starts), np.maximum.reduceat(along.max(axis=1), starts)
        room, u = self.side - (last - first), draws.uniform(f"place {name}")
        if self.layout == "free":
            offset = (PLACES[values[name]] + 0.2 * u) * room
        else:
            offset = room / 2 + CENTRED_SHIFT * self.side * (2 * u - 1)
        return along - first[owner, None] + offset[owner, None]

    def _levels(self, which: str, colour: np.ndarray, draws: "Draws") -> np.ndarray:
        """[n, C]: the colour's channels, each moved by up to LEVELS towards the middle."""
        pure = np.array(list(COLOURS.values()))[colour, : 3 if self.colour else 1]
        moves = np.stack([LEVELS * draws.uniform(f"{which} {k}") for k in range(pure.shape[1])], axis=1)
        return pure + np.where(pure == 0, moves, -moves)

    def _captions(self, values: dict[str, np.ndarray], draws: "Draws") -> np.ndarray:
        """[n, TOKENS] int8. Half of the captions state everything; the others leave out each word but the character's
        at even odds. In grey, ink implies paper, which is not stated."""
        names, is_full = self.attribute_names, draws.uniform("full") < 0.5
        stated = {"a": np.ones_like(is_full)} | {name: np.full_like(is_full, name == "character") for name in names}
        for name in names.keys() - {"character"} - ({"paper"} if not self.colour else set()):
            stated[name][is_full] = True
            stated[name][~is_full] = draws.take(~is_full).uniform(f"tell {name}") < 0.5
        stated |= {"in": stated["ink"], "on": stated["paper"]}
        tokens, is_kept = np.zeros((2, len(is_full), TOKENS), np.int8)
        for place, word in enumerate(word for word in WORDS if word in stated):
            first = VOCABULARY.index(names[word][0] if word in names else word)
            tokens[:, place], is_kept[:, place] = first + values.get(word, 0), stated[word]
        order = np.argsort(1 - is_kept, axis=1, kind="stable")
        return np.take_along_axis(tokens * is_kept, order, axis=1)


class Draws:
    """Uniform random numbers of n pictures by name: one does not depend on any other."""

    def __init__(self, stream: str, indices: np.ndarray, attempts: np.ndarray) -> None:
        self.stream, self.indices, self.attempts = stream, indices, attempts
        pictures = zip(indices.tolist(), attempts.tolist())
        self.prefixes = [f"glyphs/{VERSION}/{stream}/{index}/{attempt}/".encode() for index, attempt in pictures]

    @classmethod
    def accepted(cls, stream: str, indices: Sequence[int], is_wrong: Callable[["Draws"], np.ndarray]) -> "Draws":
        """Of each picture's first attempt for which `is_wrong` is false."""
        draws = cls(stream, np.array(indices, np.int64), np.zeros(len(indices), np.int64))
        waiting = np.flatnonzero(is_wrong(draws))
        while len(waiting):
            draws.attempts[waiting] += 1
            waiting = waiting[is_wrong(draws.take(waiting))]
        return draws.take(slice(None))

    def take(self, rows: slice | np.ndarray) -> "Draws":
        return Draws(self.stream, self.indices[rows], self.attempts[rows])

    def uniform(self, name: str) -> np.ndarray:
        """[n] float64 in [0, 1): the first 53 bits of a SHA-256."""
        end = name.encode()
        bits = np.frombuffer(b"".join([sha256(prefix + end).digest()[:8] for prefix in self.prefixes]), ">u8")
        return (bits >> 11) / 2.0**53

    def choice(self, name: str, n: int) -> np.ndarray:
        """[n] int64 in 0 ... n - 1."""
        return (self.uniform(name) * n).astype(np.int64)
