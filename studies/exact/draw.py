"""Figures of curves and of vectors. The same data give the same bytes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#2b5c8a", "#c44e2b", "#4f8a3b", "#7a4fa3", "#b8902c", "#3a9aa0")
DOTS_BELOW = 60  # points of a curve, each of which is then marked
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 120.0,
    "savefig.dpi": "figure",
}


class Curve(NamedTuple):
    label: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    half_width: np.ndarray | None = None  # of the 95 % interval
    line: str = "-"


@mpl.rc_context(STYLE)
def draw_curves(panels: Mapping[str, Sequence[Curve]], x_labels: Sequence[str]) -> Figure:
    """One row of panels, by title; a label has the same colour in all of them."""
    figure, places = _new_figure(len(panels), 2.6, len(panels))
    labels = list(dict.fromkeys(curve.label for curves in panels.values() for curve in curves))
    for (title, curves), x_label, axes in zip(panels.items(), x_labels, places):
        for label, x, y, half_width, line in curves:
            colour, dot = COLOURS[labels.index(label) % len(COLOURS)], "o" if len(x) < DOTS_BELOW else ""
            axes.plot(x, y, f"{dot}{line}", color=colour, markersize=3, label=label)
            if half_width is not None:
                axes.fill_between(x, y - half_width, y + half_width, color=colour, alpha=0.2, linewidth=0)
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.legend()
    return figure


@mpl.rc_context(STYLE)
def draw_vectors(panels: Mapping[str, np.ndarray], reach: float, marks: np.ndarray, columns: int) -> Figure:
    """Vectors [side, side, 2] by title, on a square of half-width `reach`, in the scale of the first panel.

    marks: [n, 2] points that are shown in every panel.
    """
    figure, places = _new_figure(len(panels), 3.2, columns)
    longest = float(np.linalg.norm(next(iter(panels.values())), axis=2).max())
    for (title, vectors), axes in zip(panels.items(), places):
        line = np.linspace(-reach, reach, len(vectors))
        x, y = np.meshgrid(line, line, indexing="ij")
        axes.quiver(x, y, *vectors.transpose(2, 0, 1), color=COLOURS[0], scale=longest * 8, width=0.005)
        axes.plot(*marks.T, "o", color=COLOURS[1])
        axes.set(title=title, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    return figure


@mpl.rc_context(STYLE)
def save(figure: Figure, file: Path) -> None:
    """As PNG, without a date or a version."""
    figure.savefig(file, metadata={"Software": None})


def _new_figure(count: int, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """height: of one panel, in inches."""
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(0.6 + 3.2 * columns, 0.2 + height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).flatten().tolist()
