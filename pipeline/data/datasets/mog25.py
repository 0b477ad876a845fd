"""A square grid of Gaussians, a known distribution: SIDDM's simulation with 25 modes, and larger ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from methods.core.density import mog25
from methods.core.numbers import Count, Number, Positive
from pipeline.data.records import Record

TRAIN_SEED = 1024  # the official code's
HELD_OUT_SEED = 20_260
SCALE = 0.5  # of 25 modes: standard deviation 3.54, which trains best


@dataclass(frozen=True)
class Source:
    """Points are stored as (raw - centre) * scale, which is what networks see; metrics are of raw coordinates.

    centre 0 and scale 1 give the official data, neither centred nor scaled.
    """

    side: Count = mog25.SIDE  # modes along one side: 5, 10, 20 make 25, 100, 400
    per_mode: Count = 10_000  # to train on
    held_out: Count = 20_000  # independent draws of the distribution; as many as a run is evaluated with
    centre: Number | None = None  # of both coordinates; None: the middle of the grid
    scale: Positive | None = None  # None: what gives the standard deviation of 25 modes at half scale

    def __post_init__(self) -> None:
        for name, least in (("side", 2), ("per_mode", 1), ("held_out", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} came, at least {least} was wanted")
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"scale: {self.scale} came, a positive number was wanted")

    @property
    def label_names(self) -> tuple[str, ...]:
        return ()

    @property
    def facts(self) -> dict[str, Any]:
        """The distribution in raw coordinates (equal modes), and the affine map: raw = stored / scale + centre."""
        centre, scale = self._affine()
        law = {"centres": mog25.centres(self.side).tolist(), "std": mog25.STD, "clip": mog25.CLIP}
        return {"law": law, "affine": {"centre": centre, "scale": scale}}

    def records(self) -> Iterator[Record]:
        centre, scale = self._affine()
        for split, raw in (
            ("train", mog25.points(self.per_mode, TRAIN_SEED, self.side)),
            ("held_out", mog25.draws(self.held_out, HELD_OUT_SEED, self.side)),
        ):
            for point in ((raw.double().numpy() - centre) * scale).astype(np.float32):
                yield Record(point, None, split)

    def _affine(self) -> tuple[float, float]:
        variance, usual = (float(mog25.moments(side)[1][0, 0]) for side in (self.side, mog25.SIDE))
        centre = mog25.SPACING * (self.side - 1) / 2 if self.centre is None else self.centre
        return centre, SCALE * (usual / variance) ** 0.5 if self.scale is None else self.scale
