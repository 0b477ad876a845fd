"""Two pictures for the first screen: quality against coverage with a name at each point, and samples side by side."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox

from pipeline.config.study import Study
from pipeline.data.artifacts import MANIFEST
from pipeline.data.image_grid import grid
from pipeline.data.shards import read_pictures
from pipeline.metrics.card import METRICS
from pipeline.report.figures import STYLE
from pipeline.report.verdicts import WORDS, Field, Method

LOG_FROM = 5.0  # largest over smallest quality
MOST_ROWS = 10  # of methods
IMAGES = 10  # of a method
WIDTH = 6.6  # inches, 792 pixels: narrow enough to be shrunk on a phone
PLACES = [
    (6, 4),
    (6, -11),
    (-6, 4),
    (-6, -11),
    (0, 9),
    (0, -16),
    (6, 14),
    (-6, 14),
    (6, -22),
    (-6, -22),
]  # of a name, in points


@mpl.rc_context(STYLE)
def trilemma_picture(of: Field) -> Figure:
    """Better is right and up; the colour is speed. Bars are 95 % intervals, dashed lines real against real."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    calls = [method.all_calls for method in of.methods]
    levels = sorted(set(calls))
    colours = mpl.colormaps["viridis"](np.linspace(0.05, 0.85, len(levels)))
    for level, colour in zip(levels, colours):
        alike = [method for method, own in zip(of.methods, calls) if own == level]
        at, errors = zip(*(_position(method, kind, alike) for kind in WORDS for method in alike[:1]))
        label = f"{level:g} call{'s' * (level != 1)}"
        axes.errorbar(*at, xerr=errors[0], yerr=errors[1], fmt="o", color=colour, elinewidth=0.8, label=label)
    for draw, real in zip((axes.axvline, axes.axhline), of.real.values()):
        if real is not None:
            draw(
                real,
                color="#c44e2b",
                linestyle="dashed",
                linewidth=0.9,
                label="_" if draw == axes.axhline else "real images",
            )
    quality = [method.values["quality"].value for method in of.methods]
    if min(quality) > 0 and max(quality) > LOG_FROM * min(quality):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.xaxis.set_minor_formatter("{x:.3g}")
    for kind, axis, invert in zip(WORDS, (axes.xaxis, axes.yaxis), (axes.invert_xaxis, axes.invert_yaxis)):
        if METRICS[of.metrics[kind]].better == "lower":
            invert()
        axis.set_label_text(f"{kind}: {of.metrics[kind]}, better is {'right' if axis is axes.xaxis else 'up'}")
        axis.set_major_formatter("{x:.3g}")
    axes.margins(0.12)
    figure.legend(title="network calls\nper image", loc="outside right upper", fontsize=8, title_fontsize=8)
    _write_names(figure, axes, of)
    return figure


def _position(method: Method, kind: str, alike: list[Method]) -> tuple[list[float], np.ndarray]:
    """Values of all these methods, and their distances to the bounds."""
    values = np.array([one.values[kind][:3] for one in alike])
    return values[:, 0].tolist(), np.nan_to_num(np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]))


def _write_names(figure: Figure, axes: Axes, of: Field) -> None:
    """Each in the first place where it covers no other name and no point."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")
    renderer = canvas.get_renderer()
    points = axes.transData.transform([[method.values[kind].value for kind in WORDS] for method in of.methods])
    taken: list[Bbox] = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    frame = axes.bbox
    for method in of.methods:
        at = method.values["quality"].value, method.values["coverage"].value
        for place in PLACES:
            align = "left" if place[0] > 0 else "right" if place[0] < 0 else "center"
            name = axes.annotate(method.name, at, place, textcoords="offset points", fontsize=8.5, ha=align)
            box = name.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken) and frame.x0 < box.x0 and box.x1 < frame.x1:
                break
            name.remove()
        else:
            name = axes.annotate(method.name, at, PLACES[0], textcoords="offset points", fontsize=8.5)
        taken.append(name.get_window_extent(renderer))


@mpl.rc_context(STYLE)
def samples_picture(study: Study, of: Field) -> Figure | None:
    """A row of samples for each method, from the best quality on, below one of real images; None without images."""
    rows = {"real images": _real(study, of.dataset)}
    for method in of.methods[:MOST_ROWS]:
        folder = study.out / "sample" / method.arm.repetitions[0].entry
        if (folder / MANIFEST).is_file():
            rows[f"{method.name}\n{method.calls_text}"] = read_pictures(folder, "samples-0").images[:IMAGES]
    if any(images.ndim != 4 for images in rows.values()):
        return None
    figure = Figure(figsize=(WIDTH, 0.57 * len(rows)), layout="constrained")
    for (label, images), axes in zip(rows.items(), figure.subplots(len(rows), squeeze=False).flat):
        axes.imshow(grid(images, IMAGES), cmap="gray", vmin=0, vmax=255)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def _real(study: Study, dataset: str) -> np.ndarray:
    """Held-out images: the first of each class where there are labels."""
    images, labels = read_pictures(study.out / "prepare" / dataset, "held_out")[:2]
    chosen = np.arange(min(IMAGES, len(images)))
    if labels is not None and (first := np.unique(labels, return_index=True)[1]).size > 1:
        chosen = first[:IMAGES]
    return images[chosen]
