"""The trilemma as an interactive plot: quality, coverage and cost of all entries, and which of them are dominated."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, CustomJS, CustomJSTickFormatter, HoverTool, Span, TapTool
from bokeh.plotting import figure

from pipeline.metrics.card import METRICS
from pipeline.tables.listing import COVERAGE, QUALITY

SECONDS, CALLS = "seconds per image", "network evaluations per image"
Standing: TypeAlias = Literal["on the front", "dominated within noise only", "dominated"]
LOOKS = {  # colour (readable in the light and the dark scheme) and shape
    "on the front": ("#1f9e6e", "circle"),
    "dominated within noise only": ("#d08a10", "diamond"),
    "dominated": ("#8b919b", "x"),
}
GREY = "#8b919b"
LOG_SCALE_FROM = 5  # largest over smallest value


class Axis(NamedTuple):
    title: str
    less_is_better: bool
    is_log: bool
    real_vs_real: float | None
    values: np.ndarray  # [n, 3]: value, low and high of the 95 % interval, per entry

    def text(self, row: int) -> str:
        value, low, high = self.values[row]
        return f"{value:.4g}" + (f" [{low:.4g}, {high:.4g}]" if high > low else "")


class Trilemma(NamedTuple):
    entries: list[str]
    names: list[str]  # to show
    axes: tuple[Axis, Axis, Axis]  # cost, quality, coverage
    left_out: list[str]  # entries measured in another way, or not at all

    @property
    def standings(self) -> list[Standing]:
        # negated where more is better; low stays below high
        costs = [axis.values if axis.less_is_better else -axis.values[:, [0, 2, 1]] for axis in self.axes]
        value, low, high = np.stack(costs, axis=-1).transpose(1, 0, 2)
        return standings(value, low, high)


def standings(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[Standing]:
    """[n, axes] each, less is better. Dominated: another entry is no worse on every axis and better on one.

    Within noise only: the interval of each entry that dominates it overlaps its own on some axis. NaN bounds are
    unknown: they overlap with everything. An exact value has an interval of no width.
    """
    result: list[Standing] = []
    for own, own_low in zip(value, low):
        dominates = (value <= own).all(1) & (value < own).any(1)
        if (dominates & (high <= own_low).all(1)).any():
            result.append("dominated")
        else:
            result.append("dominated within noise only" if dominates.any() else "on the front")
    return result


def trilemma(values: pd.DataFrame, seconds: pd.Series, names: Mapping[str, str] | None = None) -> Trilemma | None:
    """values: rows of one table with `entry` and `nfe`; seconds: per image, by entry, measured once.

    names: to show, by entry, where they differ from it.

    None where fewer than two entries have both quality and coverage by the most common card. Cost is in seconds if they
    are known for every entry, otherwise in network evaluations, which are counted.
    """
    all_entries, names = list[str](dict.fromkeys(values["entry"].tolist())), names or {}
    quality, coverage = (_measured(values, names) for names in (QUALITY, COVERAGE))
    entries = [entry for entry in all_entries if entry in quality.index and entry in coverage.index]
    if len(entries) < 2:
        return None
    is_timed = bool(seconds.reindex(entries).notna().all())
    cost = seconds if is_timed else values.drop_duplicates("entry").set_index("entry")["nfe"]
    exact = np.repeat(cost.loc[entries].to_numpy(float)[:, None], 3, axis=1)
    cost_axis = Axis(SECONDS if is_timed else CALLS, True, True, None, exact)
    axes = cost_axis, _axis(quality.loc[entries]), _axis(coverage.loc[entries])
    shown = {entry: names.get(entry, entry) for entry in all_entries}
    left_out = [name for entry, name in shown.items() if entry not in entries]
    return Trilemma(entries, [shown[entry] for entry in entries], axes, left_out)


def _measured(values: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """By entry: rows of the first of these metrics that was measured, with its most common card."""
    name = next((name for name in names if name in set(values["metric"])), names[0])
    rows = values.loc[values["metric"] == name]
    return rows.loc[rows["card"].isin(rows["card"].value_counts().index[:1])].set_index("entry")


def _axis(rows: pd.DataFrame) -> Axis:
    metric = str(rows["metric"].iloc[0])
    less = METRICS[metric].better == "lower"
    values = rows[["value", "ci_low", "ci_high"]].to_numpy(float)
    is_log = bool(np.nanmin(values) > 0 and values[:, 0].max() > LOG_SCALE_FROM * values[:, 0].min())
    real = rows["real_vs_real"].dropna().tolist()
    return Axis(f"{metric}, {'less' if less else 'more'} is better", less, is_log, real[0] if real else None, values)


def plots(shown: Trilemma) -> Iterator[figure]:
    """A panel per pair of axes. An entry selected in one is highlighted in all; a click shows how it was computed."""
    source = ColumnDataSource(_columns(shown))
    code = "const at = source.selected.indices; if (at.length) openEntry(source.data.entry[at[0]])"
    source.selected.js_on_change("indices", CustomJS(args={"source": source}, code=code))
    for x, y in combinations(range(3), 2):
        yield _panel(shown, source, x, y)


def _columns(shown: Trilemma) -> dict[str, Any]:
    columns: dict[str, Any] = {"entry": shown.entries, "name": shown.names, "standing": shown.standings}
    columns["colour"] = [LOOKS[standing][0] for standing in columns["standing"]]
    columns["shape"] = [LOOKS[standing][1] for standing in columns["standing"]]
    for number, axis in enumerate(shown.axes):
        value, low, high = axis.values.T
        columns |= {f"value{number}": value, f"low{number}": np.where(np.isnan(low), value, low)}
        columns |= {f"high{number}": np.where(np.isnan(high), value, high)}
        columns[f"text{number}"] = [axis.text(row) for row in range(len(value))]
    return columns


def _panel(shown: Trilemma, source: ColumnDataSource, x: int, y: int) -> figure:
    panel = _empty_panel(shown.axes[x], shown.axes[y])
    dotted: dict[str, Any] = {"line_color": "#c44e2b", "line_dash": "dotted"}
    if (real := shown.axes[x].real_vs_real) is not None:
        panel.add_layout(Span(location=real, dimension="height", **dotted))
    if (real := shown.axes[y].real_vs_real) is not None:
        panel.add_layout(Span(location=real, dimension="width", **dotted))
    front = _pair_front(shown.axes[x], shown.axes[y])
    panel.line(*front, color="#1f9e6e", line_dash="dashed", line_alpha=0.7)
    panel.quad(
        left=f"low{x}", right=f"high{x}", bottom=f"low{y}", top=f"high{y}", source=source,
        fill_color="colour", fill_alpha=0.18, line_color="colour", line_alpha=0.7,
    )  # fmt: skip
    at = f"value{x}", f"value{y}"
    points = panel.scatter(*at, source=source, marker="shape", size=9, color="colour", nonselection_alpha=0.35)
    _write_names(panel, shown, source, at, x, y)
    texts = [("", "@name: @standing"), *((axis.title, f"@text{n}") for n, axis in enumerate(shown.axes))]
    panel.add_tools(HoverTool(renderers=[points], tooltips=texts, visible=False))
    panel.add_tools(TapTool(renderers=[points], visible=False))
    return panel


def _write_names(panel: figure, shown: Trilemma, source: ColumnDataSource, at: tuple[str, str], x: int, y: int) -> None:
    """On the side of each point that has room; above and below in turn, so that fewer lie on each other."""
    across, up = shown.axes[x], shown.axes[y]
    place = np.log(across.values[:, 0]) if across.is_log else across.values[:, 0]
    is_right = place > (place.min() + place.max()) / 2
    is_above = np.argsort(np.lexsort((up.values[:, 0], place))) % 2 == 0
    source.add(np.where(is_right, "right", "left").tolist(), f"align{x}{y}")
    source.add(np.where(is_right, -7, 7).tolist(), f"dx{x}{y}")
    source.add(np.where(is_above, -6, 12).tolist(), f"dy{x}{y}")
    panel.text(
        *at, "name", source=source, text_color=GREY, text_font_size="11px", text_align=f"align{x}{y}",
        x_offset=f"dx{x}{y}", y_offset=f"dy{x}{y}",
    )  # fmt: skip


def _empty_panel(across: Axis, up: Axis) -> figure:
    panel = figure(
        height=360, sizing_mode="stretch_width", tools="pan,box_zoom,reset", toolbar_location="right",
        active_drag=None,  # a finger on a plot scrolls the page
        x_axis_type="log" if across.is_log else "linear", y_axis_type="log" if up.is_log else "linear",
        x_axis_label=across.title, y_axis_label=up.title,
        background_fill_color=None, border_fill_color=None, outline_line_color=None,
    )  # fmt: skip
    panel.toolbar.logo = None
    panel.x_range.range_padding = 0.15  # type: ignore[attr-defined]  # room for names
    for axis in panel.axis:
        axis.ticker.desired_num_ticks = 4  # type: ignore[union-attr]
        axis.formatter = CustomJSTickFormatter(code="return String(+tick.toPrecision(3))")
        axis.axis_label_text_color = axis.major_label_text_color = GREY
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = GREY
    panel.grid.grid_line_color, panel.grid.grid_line_alpha = GREY, 0.2
    return panel


def _pair_front(across: Axis, up: Axis) -> np.ndarray:
    """The front of these two axes alone, by means: [2, m], x and y of its corners from one end to the other."""
    xy = np.stack([across.values[:, 0], up.values[:, 0]])
    costs = (xy * np.array([[1 if axis.less_is_better else -1] for axis in (across, up)])).T
    best = xy[:, [standing == "on the front" for standing in standings(costs, costs, costs)]]
    return best[:, np.argsort(best[0])]
