"""Drawn figures: curves, and bars with intervals. The same data make the same bytes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import pandas as pd

PANELS_PER_ROW = 3
COLOURS = ("#2b5c8a", "#c44e2b")  # what is measured, and what it is held against
LOG_SCALE_FROM = 20.0  # largest over smallest value of a curve
SMOOTH_FROM = 60  # points of a curve, from which a moving average is drawn over it
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "trilemma",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 120.0,
    "savefig.dpi": "figure",
}


class Bar(NamedTuple):
    """One value of a comparison, in the unit of its panel."""

    label: str
    value: float
    low: float  # of the 95 % interval
    high: float
    floor: float | None = None  # what real data score against real data


@mpl.rc_context(STYLE)
def loss_curves(history: "pd.DataFrame") -> Figure:
    """A panel per quantity over training steps; `held_out_x` goes into the panel of `x`.

    history: a row per record, with a column `step`; a quantity that was not measured then is NaN.
    """
    names = [name for name in history.columns if name != "step"]
    quantities = list(dict.fromkeys(name.removeprefix("held_out_") for name in names))
    figure, panels = _panels(len(quantities), height=2.4)
    for quantity, axes in zip(quantities, panels):
        drawn = [name for name in (quantity, f"held_out_{quantity}") if name in names]
        for name in drawn:
            held_out = name != quantity
            _curve(axes, history.dropna(subset=[name]), name, "held out" if held_out else "training", COLOURS[held_out])
        axes.set_title(quantity.replace("_", " "))
        axes.set_xlabel("step")
        if len(drawn) == 2:
            axes.legend()
        least, most = history[drawn].min(axis=None), history[drawn].max(axis=None)
        if least > 0 and most > LOG_SCALE_FROM * least:
            axes.set_yscale("log")
    return figure


@mpl.rc_context(STYLE)
def bars(panels: Mapping[str, Sequence[Bar]]) -> Figure:
    """A panel per metric, named by its title: values as bars, their 95 % intervals, and the floor of real data."""
    longest = max(len(values) for values in panels.values())
    figure, places = _panels(len(panels), height=0.8 + 0.32 * longest)
    floors = [_bars(axes, title, values) for (title, values), axes in zip(panels.items(), places)]
    known = [floor for floor in floors if floor is not None]
    if known:
        figure.legend(known[:1], ["the same of real data"], loc="outside lower center")
    return figure


def save(figure: Figure, file: Path) -> Path:
    """As PNG or SVG, by the name: without dates and versions."""
    nothing = {"Date": None, "Creator": None} if file.suffix == ".svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(file, metadata=nothing)
    return file


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """height: of one panel, in inches."""
    columns = min(count, PANELS_PER_ROW)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(0.6 + 3.2 * columns, 0.2 + height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _curve(axes: Axes, points: "pd.DataFrame", name: str, label: str, colour: str) -> None:
    step, value = points["step"], points[name]
    if len(points) < SMOOTH_FROM:
        axes.plot(step, value, color=colour, label=label)
        return
    axes.plot(step, value, color=colour, alpha=0.25, linewidth=0.6)
    axes.plot(step, value.rolling(len(points) // 20, min_periods=1, center=True).mean(), color=colour, label=label)


def _bars(axes: Axes, title: str, values: Sequence[Bar]) -> Any:
    """The drawn floors, if there are any."""
    heights = np.arange(len(values))
    value = np.array([bar.value for bar in values])
    errors = [value - [bar.low for bar in values], [bar.high for bar in values] - value]
    axes.barh(heights, value, height=0.6, color=COLOURS[0], alpha=0.45)
    axes.errorbar(value, heights, xerr=errors, fmt="none", ecolor="black", elinewidth=1, capsize=3)
    axes.set_yticks(heights, [bar.label for bar in values])
    axes.invert_yaxis()
    axes.set_title(title)
    floors = [(height, bar.floor) for height, bar in zip(heights, values) if bar.floor is not None]
    if not floors:
        return None
    at, floor = np.array(floors).T
    return axes.vlines(floor, at - 0.4, at + 0.4, COLOURS[1], "dashed")


@mpl.rc_context(STYLE)
def sweep_curves(rows: "pd.DataFrame", axes: Sequence[str], metric: str, paper_metric: str) -> Figure:
    """The metric over the first axis of a sweep with 95 % intervals, a line per further axis; the paper's beside it.

    rows: of one metric; columns `entry`, the axes (as words), value, ci_low, ci_high, floor, paper_value.
    """
    has_paper = bool(rows["paper_value"].notna().to_numpy().any())
    figure, panels = _panels(1 + has_paper, height=3.0)
    first, *others = axes
    ticks = list(dict.fromkeys(rows[first].tolist()))
    kinds = [kind for kind in ("entry", *others) if len(set(rows[kind])) > 1]
    for label, line in _lines(rows, kinds):
        at = [ticks.index(value) for value in line[first].tolist()]
        value, low, high = (line[name].to_numpy(float) for name in ("value", "ci_low", "ci_high"))
        errors = np.nan_to_num(np.array([value - low, high - value]))
        panels[0].errorbar(at, value, yerr=errors, marker="o", markersize=3, capsize=3, label=label)
        if has_paper:
            panels[1].plot(at, line["paper_value"], marker="o", markersize=3, label=label)
    floors = rows["floor"].dropna().tolist()
    if floors:
        panels[0].axhline(floors[0], color=COLOURS[1], linestyle="dashed", label="real data")
    for panel, column, title in zip(
        panels, ("value", "paper_value"), (f"{metric}, ours", f"{paper_metric}, published")
    ):
        panel.set_title(title)
        panel.set_xlabel(first)
        panel.set_xticks(range(len(ticks)), ticks)
        drawn = rows[column].to_numpy(float)
        least, most = np.nanmin(drawn), np.nanmax(drawn)
        if least > 0 and most > LOG_SCALE_FROM * least:
            panel.set_yscale("log")
        if kinds or panel is panels[0]:
            panel.legend()
    return figure


def _lines(rows: "pd.DataFrame", kinds: Sequence[str]) -> Iterator[tuple[str | None, "pd.DataFrame"]]:
    """One per combination of what `kinds` say, with its name."""
    labels = [" ".join(map(str, words)) for words in zip(*(rows[kind] for kind in kinds))] or [""] * len(rows)
    for label in dict.fromkeys(labels):
        yield label or None, rows.loc[[other == label for other in labels]]
