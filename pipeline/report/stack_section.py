"""A stack's part of the report: its table beside the printed values, orderings, and densities."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.study import Study
from pipeline.errors import UserError
from pipeline.report.figures import save
from pipeline.tables.cells import ORDERINGS
from pipeline.tables.markdown import markdown_table, plus_minus
from pipeline.tables.stacks import members_of

SHOWN = ["hq", "modes", "mode_kl", "energy", "frechet_2d"]
BINS = 150  # of a density panel, per side


class StackValues(NamedTuple):
    """The tables of a stack."""

    name: str
    rows: pd.DataFrame
    orderings: pd.DataFrame


def stack_values(study: Study, name: str) -> StackValues:
    files = [study.folder / "reports" / "tables" / f"{table}.csv" for table in (name, name + ORDERINGS)]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: does not exist: make it with dvc repro first")
    return StackValues(name, *map(pd.read_csv, files))


def stack_sections(study: Study, values: StackValues, figures: Path) -> Iterator[str]:
    """Markdown; figures: the folder that the picture is drawn into."""
    name, table, orderings = values
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
    if len(orderings):
        counts = pd.crosstab(orderings["metric"], orderings["ordering"]).reset_index()
        yield f"Of {len(orderings) // len(counts)} printed orderings, by metric ({orderings.scope[0]}):"
        yield markdown_table(list(counts), counts.astype(str).to_numpy().tolist())
    figure = save(densities(study, name), figures / f"{name}.png")
    yield f"![densities of {name}](figures/{figure.name})"


def densities(study: Study, name: str) -> Figure:
    """Histograms of each member's samples, after SIDDM's figure 3: a row per method, a column per number of steps."""
    members = list(members_of(study, name))
    samples = np.load(study.out / "evaluate-stack" / name / "samples.npy")
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
