"""What the points of a sweep look like: samples of each, from the store, in reports/sweeps/<table>-samples.md."""

from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib.figure import Figure

from pipeline.config.study import Study
from pipeline.dag.graph import STAGES
from pipeline.dag.lineage import chain_links
from pipeline.data.image_grid import grid
from pipeline.data.shards import read_pictures
from pipeline.errors import ArtifactError
from pipeline.report.figures import save
from pipeline.store.open import open_store
from pipeline.sweeps.entry import find_sweep, is_stacked
from pipeline.sweeps.trials import trials_of

SHOWN = 16  # pictures of a point


def write_sweep_pictures(study: Study, name: str) -> str | None:
    """The file below reports/, with the samples of each point's first seed; None where there are no pictures."""
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
            rows[trial.point.label] = grid(images[:SHOWN], SHOWN)
    if not rows:
        return None
    figure = Figure(figsize=(8.0, 0.75 * len(rows)), layout="constrained")
    for (label, row), axes in zip(rows.items(), figure.subplots(len(rows), squeeze=False).flat):
        axes.imshow(row, cmap="gray", vmin=0, vmax=255, aspect="equal")
        axes.set_axis_off()
        axes.set_title(label, fontsize=7, loc="left", pad=2)
    picture = save(figure, study.folder / "reports" / "sweeps" / f"{sweep.table}-samples.png").name
    told = [f"# Samples of {sweep.table}", f"![samples of {', '.join(rows)}]({picture})"]
    if missing:
        told.append(f"Not in the store: {', '.join(missing)} (`trilemma sweep {name}`).")
    file = f"sweeps/{sweep.table}-samples.md"
    (study.folder / "reports" / file).write_text("\n\n".join(told) + "\n")
    return file
