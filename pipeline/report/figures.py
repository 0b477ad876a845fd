"""Drawn figures: curves, and bars with intervals. The same data make the same bytes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.metrics.intervals import NORMAL_QUANTILE
from pipeline.store.files import replacing

Numbers: TypeAlias = Sequence[float] | np.ndarray
PANELS_PER_ROW = 3
COLOURS = ("#2b5c8a", "#c44e2b")  # what is measured, and what it is held against
MANY_COLOURS = (*COLOURS, "#4f8a3b", "#7a4fa3", "#b8902c", "#3a9aa0")
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


class Curve(NamedTuple):
    """One curve of a panel; all its parts are equally long."""

    label: str
    x: Numbers
    value: Numbers
    low: Numbers | None = None  # of the 95 % interval
    high: Numbers | None = None


class Panel(NamedTuple):
    curves: Sequence[Curve]
    x_label: str
    is_log: bool = False  # the horizontal axis


@mpl.rc_context(STYLE)
def curves(panels: Mapping[str, Panel]) -> Figure:
    """A panel per title: curves with their intervals; one label has the same colour in all panels."""
    figure, all_axes = _panels(len(panels), height=2.6)
    labels = list(dict.fromkeys(curve.label for panel in panels.values() for curve in panel.curves))
    for (title, panel), axes in zip(panels.items(), all_axes):
        for curve in panel.curves:
            colour = MANY_COLOURS[labels.index(curve.label) % len(MANY_COLOURS)]
            style = "o-" if len(curve.x) < SMOOTH_FROM else "-"
            axes.plot(curve.x, curve.value, style, color=colour, markersize=3, label=curve.label)
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
        axes.set_title(title)
        axes.set_xlabel(panel.x_label)
        if panel.is_log:
            axes.set_xscale("log")
        if len(labels) > 1:
            axes.legend()
    return figure


@mpl.rc_context(STYLE)
def loss_curves(history: pd.DataFrame) -> Figure:
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
        axes.locator_params(nbins=4)  # ticks are most of what drawing costs
        if len(drawn) == 2:
            axes.legend()
        least, most = history[drawn].min(axis=None), history[drawn].max(axis=None)
        if least > 0 and most > LOG_SCALE_FROM * least:
            axes.set_yscale("log")
    return figure


def log_ratio_curves(rows: pd.DataFrame) -> Figure:
    """A discriminator's log density ratio along guided and unguided denoising paths, noise falling.

    rows: path, sigma, mean, and error (the standard error of the mean).
    """
    by_path = []
    for path, along in rows.groupby("path", sort=False):
        sigma, mean, error = along[["sigma", "mean", "error"]].to_numpy().T
        by_path.append(Curve(str(path), sigma, mean, mean - NORMAL_QUANTILE * error, mean + NORMAL_QUANTILE * error))
    figure = curves({"log density ratio, 0 is as real as the data": Panel(by_path, "noise level", is_log=True)})
    figure.axes[0].invert_xaxis()
    return figure


@mpl.rc_context(STYLE)
def bars(rows: pd.DataFrame) -> Figure:
    """A panel per metric: values as bars, their 95 % intervals, and the real-vs-real value, if any.

    rows: column (the panel's title), entry, value, ci_low, ci_high, real_vs_real.
    """
    panels = list(rows.groupby("column", sort=False))
    figure, all_axes = _panels(len(panels), height=0.8 + 0.32 * max(len(values) for _, values in panels))
    lines = [_bars(axes, str(title), values) for (title, values), axes in zip(panels, all_axes)]
    if any(lines):
        figure.legend([line for line in lines if line][:1], ["real against real"], loc="outside lower center")
    return figure


@mpl.rc_context(STYLE)
def scatter(points: np.ndarray, centres: np.ndarray) -> Figure:
    """points: [n, 2], and the centres of the true modes [K, 2], which alone decide the frame."""
    figure, (axes,) = _panels(1, height=3.4)
    axes.scatter(*points.T, s=1, linewidths=0, color=COLOURS[0], rasterized=True)
    axes.scatter(*centres.T, s=9, marker="+", linewidths=0.5, color=COLOURS[1])
    margin = 0.12 * float(np.ptp(centres))
    axes.set(xlim=(centres.min() - margin, centres.max() + margin), aspect="equal")
    axes.set_ylim(axes.get_xlim())
    return figure


def save(figure: Figure, file: Path) -> Path:
    """As PNG or SVG, by the file's suffix, without dates and versions."""
    omitted = {"Date": None, "Creator": None} if file.suffix == ".svg" else {"Software": None}
    with mpl.rc_context(STYLE), replacing(file) as beside:
        figure.savefig(beside, format=file.suffix[1:], metadata=omitted)
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


def _curve(axes: Axes, points: pd.DataFrame, name: str, label: str, colour: str) -> None:
    step, value = points["step"], points[name]
    if len(points) < SMOOTH_FROM:
        axes.plot(step, value, color=colour, label=label)
        return
    axes.plot(step, value, color=colour, alpha=0.25, linewidth=0.6)
    axes.plot(step, value.rolling(len(points) // 20, min_periods=1, center=True).mean(), color=colour, label=label)


def _bars(axes: Axes, title: str, rows: pd.DataFrame) -> Any:
    """The drawn real-vs-real values, or None where there are none."""
    heights = np.arange(len(rows))
    value, low, high, real = rows[["value", "ci_low", "ci_high", "real_vs_real"]].to_numpy(float).T
    errors = [value - low, high - value]
    axes.barh(heights, value, height=0.6, color=COLOURS[0], alpha=0.45)
    axes.errorbar(value, heights, xerr=errors, fmt="none", ecolor="black", elinewidth=1, capsize=3)
    axes.set_yticks(heights, rows["entry"].tolist())
    axes.invert_yaxis()
    axes.set_title(title)
    at, real = heights[~np.isnan(real)], real[~np.isnan(real)]
    return axes.vlines(real, at - 0.4, at + 0.4, COLOURS[1], "dashed") if len(real) else None


@mpl.rc_context(STYLE)
def sweep_curves(rows: pd.DataFrame, axes: Sequence[str], metric: str, paper_metric: str) -> Figure:
    """The metric over the first axis of a sweep with 95 % intervals, a line per further axis; the paper's beside it.

    rows: of one metric; columns `entry`, the axes (as words), value, ci_low, ci_high, real_vs_real, paper_value.
    """
    has_paper = bool(rows["paper_value"].notna().to_numpy().any())
    figure, panels = _panels(1 + has_paper, height=3.0)
    first, *others = axes
    ticks = list(dict.fromkeys(rows[first].tolist()))
    kinds = [kind for kind in ("entry", *others) if len(set(rows[kind])) > 1]
    are_words = bool(pd.Series(pd.to_numeric(rows[first], errors="coerce")).isna().any())
    joined = "none" if are_words else "-"
    for values, line in rows.groupby(kinds, sort=False) if kinds else [((), rows)]:
        label = " ".join(map(str, cast(tuple[object, ...], values))) or None
        at = [ticks.index(value) for value in line[first].tolist()]
        value, low, high = (line[name].to_numpy(float) for name in ("value", "ci_low", "ci_high"))
        errors = np.array([value - low, high - value])
        panels[0].errorbar(at, value, yerr=errors, marker="o", markersize=3, capsize=3, label=label, ls=joined)
        if has_paper:
            panels[1].plot(at, line["paper_value"], marker="o", markersize=3, label=label, ls=joined)
    real_vs_real = rows["real_vs_real"].dropna().tolist()
    if real_vs_real:
        panels[0].axhline(real_vs_real[0], color=COLOURS[1], linestyle="dashed", label="real against real")
    titles = f"{metric}, ours", f"{paper_metric}, published"
    for panel, column, title in zip(panels, ("value", "paper_value"), titles):
        panel.set_title(title)
        panel.set_xlabel(first)
        panel.set_xticks(range(len(ticks)), ticks)
        if are_words:
            panel.tick_params("x", rotation=30)
        values = rows[column].to_numpy(float)
        if np.nanmin(values) > 0 and np.nanmax(values) > LOG_SCALE_FROM * np.nanmin(values):
            panel.set_yscale("log")
        if kinds or panel is panels[0]:
            panel.legend(title=", ".join(kinds) or None)
    return figure


def sweep_plane(rows: pd.DataFrame, axes: Sequence[str], metric: str) -> Figure:
    """The metric over two axes of a sweep as a heat map; each cell shows its mean and half its interval.

    rows: as in `sweep_curves`, of one entry, one per cell; printed values are not drawn.
    """
    across, up = axes
    cells = rows.pivot(index=up, columns=across, values="value")
    order = {axis: list(dict.fromkeys(rows[axis].tolist())) for axis in axes}
    values = cells.loc[order[up], order[across]].to_numpy(float)
    figure = Figure(figsize=(1.0 + 0.9 * len(order[across]), 1.0 + 0.6 * len(order[up])), layout="constrained")
    axes_of = figure.subplots()
    figure.colorbar(axes_of.imshow(values, origin="lower", cmap="cividis", aspect="auto"), label=metric)
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for row in rows.to_dict("records"):
        at = order[across].index(row[across]), order[up].index(row[up])
        half = (row["ci_high"] - row["ci_low"]) / 2
        text = f"{row['value']:.3g}" + ("" if np.isnan(half) else f"\n± {half:.1g}")
        colour = "black" if row["value"] > middle else "white"
        axes_of.text(*at, text, ha="center", va="center", fontsize=7, color=colour)
    axes_of.set_xticks(range(len(order[across])), order[across])
    axes_of.set_yticks(range(len(order[up])), order[up])
    axes_of.set_xlabel(across)
    axes_of.set_ylabel(up)
    return figure
