"""reports/toys/NAME: what guidance and denoising do where everything is known exactly, as a table and a page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config.study import Study
from pipeline.report.figures import Curve, Field, Panel, curves, fields, save
from pipeline.stages.toys import ARRAYS, CHAIN, DRAWN, FIELD_SIGMA, LAST, NUMBERS, REACH, WORLDS
from pipeline.tables.cells import PAGED

ERRORS = ("score_error", "adjusted_error")
HEAD = """# Where everything is known

The data are two Gaussians in the plane, the model's score is wrong in a known way: *blind* to the modes, or with modes
*misplaced* and wrongly weighted. Errors are in nats and bound KL(data || samples) (discriminator guidance, theorem 2);
what the guide wins is their difference (theorem 1), and the last column estimates it from data alone, as one would
have to elsewhere, ± its 95 % interval."""
LAW = """The true law of a denoising step, q(x_s | x), of a noisy point x that is {steps} equal steps from the data:
normal after one step, multimodal after many at once. A sampler of few steps must therefore draw from more than a
normal law (DDGAN, figure 2). Over many noisy points it has, on the average and by the number of steps taken at once,"""


def write_toy_table(study: Study, name: str, folder: Path) -> Path:
    """table.csv: a row per value; what only one drawing of points estimates has no interval."""
    found = json.loads((study.out / "toys" / name / NUMBERS).read_text())
    rows: list[tuple[Any, ...]] = []
    for row in found["gains"]:
        value, half = row["gain"], 1.96 * row["gain_error"]
        rows += [(row["world"], row["guide"], metric, row[metric], None, None) for metric in ERRORS]
        rows.append((row["world"], row["guide"], "gain", value, value - half, value + half))
    rows += [("denoising-law", f"{row['steps']} steps", "modes", row["modes"], None, None) for row in found["modes"]]
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=["entry", "case", "metric", "value", "ci_low", "ci_high"])
    table.to_csv(folder / PAGED, index=False, float_format="%.6g", lineterminator="\n")
    return folder / PAGED


def write_toy_page(study: Study, name: str, page: Path) -> None:
    made = study.out / "toys" / name
    found = json.loads((made / NUMBERS).read_text())
    write_toy_table(study, name, page)
    with np.load(made / ARRAYS) as stored:
        arrays = {key: stored[key] for key in stored.files}
    laws = arrays.pop("laws")
    drawn = {
        "fields": fields(
            {title: Field(arrows, REACH, _modes_of(title)) for title, arrows in arrays.items()},
            len(arrays) // len(WORLDS),
        ),
        "gains": curves({world: _gains(world, found) for world in WORLDS}),
        "denoising-law": curves(_laws(laws)),
    }
    for figure, content in drawn.items():
        save(content, page / f"{figure}.png")
    (page / "README.md").write_text("\n\n".join(_sections(found)) + "\n")


def _sections(found: dict[str, Any]) -> list[str]:
    header = (
        "| world | guide | score error | error with the guide | gain | gain, from data alone |\n" + "| --- " * 6 + "|"
    )
    lines = [
        f"| {row['world']} | {row['guide']} | {row['score_error']:.3f} | {row['adjusted_error']:.3f} "
        f"| {row['score_error'] - row['adjusted_error']:+.3f} | {row['gain']:+.3f} ± {1.96 * row['gain_error']:.2f} |"
        for row in found["gains"]
    ]
    modes = ", ".join(f"{row['modes']:.2f} modes at {row['steps']}" for row in found["modes"])
    return [
        HEAD,
        "\n".join([header, *lines]),
        f"![what guidance adds to the score at noise level {FIELD_SIGMA}](fields.png)",
        "![gain over the training of the discriminator](gains.png)",
        LAW.format(steps=CHAIN) + f" {modes}.",
        "![marginals and denoising laws](denoising-law.png)",
    ]


def _gains(world: str, found: dict[str, Any]) -> Panel:
    """Over training; the optimal discriminator's is the most there is."""
    drawn = []
    for name, points in found["curves"].items():
        if name.startswith(f"{world} "):
            step, value, error = np.array(points).T
            drawn.append(Curve(name.removeprefix(f"{world} "), step, value, value - 1.96 * error, value + 1.96 * error))
    optimal = next(row["gain"] for row in found["gains"] if (row["world"], row["guide"]) == (world, "optimal"))
    steps = drawn[0].x
    return Panel(
        [*drawn, Curve("optimal", [steps[0], steps[-1]], [optimal, optimal], is_printed=True)],
        "step",
        span=(-optimal, 1.2 * optimal),
    )


def _modes_of(title: str) -> np.ndarray:
    """Of the data."""
    return WORLDS[title.partition(" ")[0]].data.means.numpy()


def _laws(laws: np.ndarray) -> dict[str, Panel]:
    places, marginals, steps = laws[0], laws[1 : CHAIN + 2], laws[CHAIN + 2 :]
    times = np.linspace(0, LAST, CHAIN + 1)
    return {
        "q(x)": Panel([Curve(f"t = {time:.2f}", places, law) for time, law in zip(times, marginals)], "x"),
        f"q(x_s | x = {DRAWN}, t = {LAST})": Panel(
            [Curve(f"s = {time:.2f}", places, law) for time, law in zip(times[-2::-1], steps)], "x_s"
        ),
    }
