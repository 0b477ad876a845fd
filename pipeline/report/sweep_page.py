"""A sweep's table, figure and page under reports/."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.data.csv_files import csv_text
from pipeline.report.figures import save
from pipeline.store.files import write_file
from pipeline.sweeps.entry import Sweep
from pipeline.sweeps.summary import SweepVerdict
from pipeline.tables.markdown import bounds, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PLANE_FROM = 3  # values of each of two axes, from which they are drawn as a heat map


def write(rows: pd.DataFrame, sweep: Sweep, verdict: SweepVerdict, reports: Path) -> "tuple[list[Path], Figure]":
    """Write reports/tables/<table>.csv and reports/sweeps/<table>.png and .md; the files and the figure."""
    file, picture, page = (
        reports / "tables" / f"{sweep.table}.csv",
        reports / "sweeps" / f"{sweep.table}.png",
        reports / "sweeps" / f"{sweep.table}.md",
    )
    write_file(file, csv_text(rows).encode())
    picture.parent.mkdir(parents=True, exist_ok=True)
    drawn = figure(rows, sweep)
    save(drawn, picture)
    write_file(page, _page(rows, sweep, verdict, picture.name).encode())
    return [file, picture, page], drawn


def _page(rows: pd.DataFrame, sweep: Sweep, verdict: SweepVerdict, picture: str) -> str:
    """Ours beside the paper's, which is seldom the same measure: orders may be compared, values not."""
    paper = f"{sweep.paper.metric}, {sweep.paper.source}" if sweep.paper else "published"
    header, lines = ["entry", *sweep.axes, f"{sweep.metric} [95 %]", "real", paper], []
    for row in _by_metric(rows, sweep).to_dict("records"):
        ours = f"{row['value']:.4g}{bounds(row['ci_low'], row['ci_high'], 4)}"
        printed = "" if pd.isna(row["paper_value"]) else f"{row['paper_value']:g}"
        real = "" if pd.isna(row["real_vs_real"]) else f"{row['real_vs_real']:.4g}"
        lines.append([row["entry"], *(row[name] for name in sweep.axes), ours, real, printed])
    return f"# {sweep.table}\n\n{verdict.text}\n\n{markdown_table(header, lines)}\n\n![{sweep.table}]({picture})\n"


def _by_metric(rows: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """By which points are compared, in the first kind of features."""
    compared = rows.loc[rows["metric"] == sweep.metric]
    return compared.loc[compared["card"] == compared["card"].tolist()[0]]


def figure(rows: pd.DataFrame, sweep: Sweep) -> "Figure":
    from pipeline.report.figures import sweep_curves, sweep_plane

    compared, axes = _by_metric(rows, sweep), sweep.axes
    if len(axes) == 2 and len(sweep.entries) == 1 and min(map(len, axes.values())) >= PLANE_FROM:
        return sweep_plane(compared, list(axes), sweep.metric)
    return sweep_curves(compared, list(axes), sweep.metric, sweep.paper.metric if sweep.paper else "")
