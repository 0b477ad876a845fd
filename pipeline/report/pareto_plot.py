"""The trilemma as an interactive plot: quality, coverage and cost of all entries; who is beaten, by more than noise."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from pipeline.metrics.card import METRICS

if TYPE_CHECKING:
    from bokeh.plotting import figure


QUALITY, COVERAGE = ("fid", "fd", "hq"), ("mode_kl", "recall")  # the first that was measured
SECONDS, CALLS = "seconds per image", "network evaluations per image"
Standing: TypeAlias = Literal["on the front", "dominated within noise only", "dominated"]
LOOKS = {  # colour, which both schemes bear, and shape of a standing
    "on the front": ("#1f9e6e", "circle"),
    "dominated within noise only": ("#d08a10", "diamond"),
    "dominated": ("#8b919b", "x"),
}
GREY = "#8b919b"
LOG_FROM = 5  # largest over smallest value


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
    axes: tuple[Axis, Axis, Axis]  # cost, quality, coverage
    left_out: list[str]  # entries measured in another way, or not at all

    @property
    def standings(self) -> list[Standing]:
        turned = [
            axis.values if axis.less_is_better else -axis.values[:, [0, 2, 1]]  # less is better, low stays below high
            for axis in self.axes
        ]
        value, low, high = np.stack(turned, axis=-1).transpose(1, 0, 2)
        return standings(value, low, high)


def standings(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[Standing]:
    """[n, axes] each, less is better. Beaten: another is no worse on every axis and better on one.

    It is beaten within noise only if every other that does so has an interval that overlaps its own on some axis.
    NaN bounds are unknown: they overlap with everything. An exact value has an interval of no width.
    """
    found: list[Standing] = []
    for own, least in zip(value, low):
        beaten = (value <= own).all(1) & (value < own).any(1)
        surely = beaten & (high <= least).all(1)
        found.append("dominated" if surely.any() else "dominated within noise only" if beaten.any() else "on the front")
    return found


def trilemma(values: pd.DataFrame, seconds: pd.Series) -> Trilemma | None:
    """values: rows of one table with `entry` and `nfe`; seconds: per image, by entry, measured once.

    None where fewer than two entries have both quality and coverage in the usual way. If the seconds of an entry are
    not known, all are held against network evaluations, which are counted.
    """
    everybody = list(dict.fromkeys(values["entry"].tolist()))
    quality, coverage = (_measured(values, names) for names in (QUALITY, COVERAGE))
    entries = [entry for entry in everybody if entry in quality.index and entry in coverage.index]
    if len(entries) < 2:
        return None
    is_timed = bool(seconds.reindex(entries).notna().all())
    cost = seconds if is_timed else values.drop_duplicates("entry").set_index("entry")["nfe"]
    exact = np.repeat(cost.loc[entries].to_numpy(float)[:, None], 3, axis=1)
    axes = (
        Axis(SECONDS if is_timed else CALLS, True, True, None, exact),
        _axis(quality.loc[entries]),
        _axis(coverage.loc[entries]),
    )
    return Trilemma(entries, axes, [entry for entry in everybody if entry not in entries])


def _measured(values: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """By entry: rows of the first metric there is, with the card that most have."""
    name = next((name for name in names if name in set(values["metric"])), names[0])
    rows = values.loc[values["metric"] == name]
    return rows.loc[rows["card"].isin(rows["card"].value_counts().index[:1])].set_index("entry")


def _axis(rows: pd.DataFrame) -> Axis:
    metric = str(rows["metric"].iloc[0])
    less = METRICS[metric].better == "lower"
    found = rows[["value", "ci_low", "ci_high"]].to_numpy(float)
    is_log = bool(np.nanmin(found) > 0 and found[:, 0].max() > LOG_FROM * found[:, 0].min())
    real = rows["real_vs_real"].dropna().tolist()
    return Axis(f"{metric}, {'less' if less else 'more'} is better", less, is_log, real[0] if real else None, found)


def plots(found: Trilemma) -> Iterator["figure"]:
    """A panel per pair of axes; what is pointed at in one is pointed out in all. A click opens the entry's chain."""
    from bokeh.models import ColumnDataSource, CustomJS

    source = ColumnDataSource(_columns(found))
    code = "const at = source.selected.indices; if (at.length) openEntry(source.data.entry[at[0]])"
    source.selected.js_on_change("indices", CustomJS(args={"source": source}, code=code))
    for x, y in combinations(range(3), 2):
        yield _panel(found, source, x, y)


def _columns(found: Trilemma) -> dict[str, Any]:
    columns: dict[str, Any] = {"entry": found.entries, "standing": found.standings}
    columns["number"] = [str(number) for number, _ in enumerate(found.entries, 1)]
    columns["colour"] = [LOOKS[standing][0] for standing in columns["standing"]]
    columns["shape"] = [LOOKS[standing][1] for standing in columns["standing"]]
    for number, axis in enumerate(found.axes):
        value, low, high = axis.values.T
        columns |= {f"value{number}": value, f"low{number}": np.where(np.isnan(low), value, low)}
        columns |= {f"high{number}": np.where(np.isnan(high), value, high)}
        columns[f"text{number}"] = [axis.text(row) for row in range(len(value))]
    return columns


def _panel(found: Trilemma, source: Any, x: int, y: int) -> "figure":
    from bokeh.models import CustomJSTickFormatter, HoverTool, Span, TapTool
    from bokeh.plotting import figure

    across, up = found.axes[x], found.axes[y]
    panel = figure(
        height=360,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,reset",
        toolbar_location="right",
        active_drag=None,  # a finger on a plot scrolls the page
        x_axis_type="log" if across.is_log else "linear",
        y_axis_type="log" if up.is_log else "linear",
        x_axis_label=across.title,
        y_axis_label=up.title,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
    )
    panel.toolbar.logo = None
    panel.x_range.range_padding = 0.15  # type: ignore[attr-defined]  # room for numbers
    for axis in panel.axis:
        axis.ticker.desired_num_ticks = 4  # type: ignore[union-attr]
        axis.formatter = CustomJSTickFormatter(code="return String(+tick.toPrecision(3))")
        axis.axis_label_text_color = axis.major_label_text_color = GREY
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = GREY
    panel.grid.grid_line_color, panel.grid.grid_line_alpha = GREY, 0.2
    looks: dict[str, Any] = {"line_color": "#c44e2b", "line_dash": "dotted"}
    if across.real_vs_real is not None:
        panel.add_layout(Span(location=across.real_vs_real, dimension="height", **looks))
    if up.real_vs_real is not None:
        panel.add_layout(Span(location=up.real_vs_real, dimension="width", **looks))
    panel.line(*_pair_front(across, up), color="#1f9e6e", line_dash="dashed", line_alpha=0.7)
    panel.quad(
        left=f"low{x}", right=f"high{x}", bottom=f"low{y}", top=f"high{y}", source=source,
        fill_color="colour", fill_alpha=0.18, line_color="colour", line_alpha=0.7,
    )  # fmt: skip
    spots = panel.scatter(
        f"value{x}", f"value{y}", source=source, marker="shape", size=9, color="colour", nonselection_alpha=0.35
    )
    panel.text(
        f"value{x}",
        f"value{y}",
        "number",
        source=source,
        text_color=GREY,
        text_font_size="11px",
        x_offset=6,
        y_offset=-3,
    )
    shown = [("", "@number @entry: @standing"), *((axis.title, f"@text{n}") for n, axis in enumerate(found.axes))]
    panel.add_tools(
        HoverTool(renderers=[spots], tooltips=shown, visible=False), TapTool(renderers=[spots], visible=False)
    )
    return panel


def _pair_front(across: Axis, up: Axis) -> np.ndarray:
    """Of these two axes alone, by means: [2, m], x and y of its corners from one end to the other."""
    xy = np.stack([across.values[:, 0], up.values[:, 0]])
    turned = xy * np.array([[1 if axis.less_is_better else -1] for axis in (across, up)])
    nothing = standings(turned.T, turned.T, turned.T)
    best = xy[:, [standing == "on the front" for standing in nothing]]
    return best[:, np.argsort(best[0])]
