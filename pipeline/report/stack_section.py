"""A stack's part of the report: its table beside the printed values, orderings, and densities."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.study import Study
from pipeline.report.figures import save
from pipeline.tables.markdown import markdown_table, plus_minus
from pipeline.tables.stacks import members_of

SHOWN = ["hq", "modes", "mode_kl", "energy", "frechet_2d"]
BINS = 150  # of a density panel, per side


def stack_sections(study: Study, name: str, reports: Path) -> Iterator[str]:
    """Markdown; the picture goes into reports/figures."""
    table = pd.read_csv(reports / "tables" / f"{name}.csv")
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for row in table.to_dict("records"):
        line = cells.setdefault((row["method"], row["steps"]), {"printed": ""})
        line[row["metric"]] = plus_minus(row["value"], row["ci_low"], row["ci_high"], 3)
        if pd.notna(row["paper_value"]):
            line["printed"] = str(row["paper_value"])
    first = table.iloc[0]
    yield f"## {name}"
    yield (
        f"{first.n_modes} Gaussians, network {first.network}, {first.iterations} iterations of batch {first.batch}; "
        f"{first.train_seeds} training and {first.sample_seeds} sampling seeds. The printed values are of another "
        "network and budget. The printed metric, `frechet_2d`, does not see whether modes are missing."
    )
    columns = [*SHOWN, "printed"]
    rows = [[*at, *(line[column] for column in columns)] for at, line in cells.items()]
    yield markdown_table(["method", "steps", *columns], rows)
    orderings = pd.read_csv(reports / "tables" / f"{name}-orderings.csv")
    if len(orderings):
        counts = pd.crosstab(orderings["metric"], orderings["ordering"]).reset_index()
        yield f"Of {len(orderings) // len(counts)} printed orderings, by metric ({orderings.scope[0]}):"
        yield markdown_table(list(counts), counts.astype(str).to_numpy().tolist())
    figure = save(densities(study, name), reports / "figures" / f"{name}.png")
    yield f"![densities of {name}](figures/{figure.name})"


def densities(study: Study, name: str) -> Figure:
    """Histograms of each member's samples, after SIDDM's figure 3: a row per method, a column per number of steps."""
    samples = np.load(study.out / "evaluate-stack" / name / "samples.npy")
    members = list(members_of(study, name))
    methods = list(dict.fromkeys(member.method for member in members))
    steps = sorted({member.steps for member in members})
    edge = float(np.abs(samples).max(axis=(1, 2)).min()) * 1.1
    figure = Figure(figsize=(1.6 * len(steps), 1.6 * len(methods)), layout="constrained")
    panels = figure.subplots(len(methods), len(steps), squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for member, points in zip(members, samples):
        axes = panels[methods.index(member.method), steps.index(member.steps)]
        counts = np.histogram2d(*points.T, bins=BINS, range=[[-edge, edge]] * 2)[0]
        axes.imshow(np.sqrt(counts.T), origin="lower", cmap="magma")
        axes.set_title(f"{member.method}, {member.steps} step{'s' * (member.steps > 1)}", fontsize=6)
    return figure
