"""A sweep's table, figure and page under reports/, and samples of its points."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.study import Study
from pipeline.dag.graph import STAGES
from pipeline.dag.lineage import chain_links
from pipeline.data.csv_files import csv_text
from pipeline.data.image_grid import grid
from pipeline.data.shards import read_pictures
from pipeline.errors import ArtifactError
from pipeline.report.figures import save, sweep_curves, sweep_plane
from pipeline.store.files import write_file
from pipeline.store.open import open_store
from pipeline.sweeps.entry import Sweep, find_sweep, is_stacked
from pipeline.sweeps.summary import SweepVerdict
from pipeline.sweeps.trials import trials_of
from pipeline.tables.markdown import bounds, markdown_table

PLANE_FROM = 3  # values of each of two axes, from which they are drawn as a heat map
POINT_IMAGES = 16


def write(rows: pd.DataFrame, sweep: Sweep, verdict: SweepVerdict, reports: Path) -> tuple[list[Path], Figure]:
    """Write reports/tables/<table>.csv and reports/sweeps/<table>.png and .md; the files and the figure."""
    file, page = reports / "tables" / f"{sweep.table}.csv", reports / "sweeps" / f"{sweep.table}.md"
    write_file(file, csv_text(rows))
    page.parent.mkdir(parents=True, exist_ok=True)
    compared = rows.loc[rows["metric"] == sweep.metric]
    compared = compared.loc[compared["card"] == compared["card"].tolist()[0]]  # in the first kind of features
    figure = _figure(compared, sweep)
    picture = save(figure, page.with_suffix(".png"))
    write_file(page, _page(compared, sweep, verdict))
    return [file, picture, page], figure


def _page(compared: pd.DataFrame, sweep: Sweep, verdict: SweepVerdict) -> str:
    """Measured beside printed values, which seldom are the same measure: compare their orders, not their sizes."""
    paper = f"{sweep.paper.metric}, {sweep.paper.source}" if sweep.paper else "published"
    header, lines = ["entry", *sweep.axes, f"{sweep.metric} [95 %]", "seeds", "real", paper], []
    for row in compared.to_dict("records"):
        value = f"{row['value']:.4g}{bounds(row['ci_low'], row['ci_high'], 4)}"
        seeds = f"{row['train_seeds']} × {row['sample_seeds']}"
        printed = "" if pd.isna(row["paper_value"]) else f"{row['paper_value']:g}"
        real = "" if pd.isna(row["real_vs_real"]) else f"{row['real_vs_real']:.4g}"
        lines.append([row["entry"], *(row[name] for name in sweep.axes), value, seeds, real, printed])
    table, about = markdown_table(header, lines), "Seeds: of training × of sampling."
    return "\n\n".join([f"# {sweep.table}", verdict.text, table, about, f"![{sweep.table}]({sweep.table}.png)\n"])


def _figure(compared: pd.DataFrame, sweep: Sweep) -> Figure:
    axes = sweep.axes
    if len(axes) == 2 and len(sweep.entries) == 1 and min(map(len, axes.values())) >= PLANE_FROM:
        return sweep_plane(compared, list(axes), sweep.metric)
    return sweep_curves(compared, list(axes), sweep.metric, sweep.paper.metric if sweep.paper else "")


def write_sweep_samples(study: Study, name: str) -> str | None:
    """reports/sweeps/<table>-samples.md and .png, from the store: samples of each point's first seed.

    The page's path below reports/; None where there are no images.
    """
    sweep = find_sweep(study, name)
    store, rows, missing = open_store(study), {}, []
    for trial in trials_of(study, sweep, f"sweeps.{name}"):
        if trial.seed or is_stacked(study, trial.point.of):
            continue
        with TemporaryDirectory() as folder:
            try:
                sample = chain_links(trial.study, STAGES["sample"].call(trial.study, trial.point.of), False, store)[-1]
                store.fetch(str(sample.key), Path(folder) / "sample")
                images = read_pictures(Path(folder) / "sample", "samples-0").images
            except ArtifactError:
                missing.append(trial.point.label)
                continue
        if images.ndim == 4:
            rows[trial.point.label] = grid(images[:POINT_IMAGES], POINT_IMAGES)
    if not rows:
        return None
    figure = Figure(figsize=(8.0, 0.75 * len(rows)), layout="constrained")
    for (label, row), axes in zip(rows.items(), figure.subplots(len(rows), squeeze=False).flat):
        axes.imshow(row, cmap="gray", vmin=0, vmax=255, aspect="equal")
        axes.set_axis_off()
        axes.set_title(label, fontsize=7, loc="left", pad=2)
    page = study.folder / "reports" / "sweeps" / f"{sweep.table}-samples.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    picture = save(figure, page.with_suffix(".png")).name
    sections = [f"# Samples of {sweep.table}", f"![samples of {', '.join(rows)}]({picture})"]
    sections += [f"Not in the store: {', '.join(missing)} (`trilemma sweep {name}`)."] * bool(missing)
    write_file(page, "\n\n".join(sections) + "\n")
    return f"sweeps/{page.name}"
