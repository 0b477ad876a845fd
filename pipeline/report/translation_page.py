"""reports/translations/NAME: realism against faithfulness of translated images, as a page with figures."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.image import imsave

from pipeline.config.study import Study
from pipeline.data.artifacts import read_artifact
from pipeline.data.image_grid import grid
from pipeline.report.figures import Curve, Panel, curves, save
from pipeline.stages.translate import EXAMPLES
from pipeline.store.files import replacing, write_file
from pipeline.tables.translations import AXES, write_translation_table


def write_translation_page(study: Study, name: str, page: Path) -> None:
    result = read_artifact(study.out / "translate" / name)
    table = pd.read_csv(write_translation_table(study, name, page))
    panels = {title: Panel(_over_starts(table, value), "start", is_log=True) for value, title in AXES.items()}
    panels["realism against faithfulness"] = Panel(_against(table), AXES["distance"])
    save(curves(panels), page / "curves.png")
    examples = np.load(result.path / EXAMPLES)
    picture = grid(examples.reshape(-1, *examples.shape[2:]), columns=examples.shape[1])
    with replacing(page / "examples.png") as beside:
        imsave(beside, picture, format="png", cmap="gray", vmin=0, vmax=255, metadata={"Software": "trilemma"})
    facts = result.manifest.facts
    starts = ", ".join(f"{start:g}" for start in table["start"].unique())
    about = (
        f"{facts['images']} held-out images are reduced to 2x2 blocks (fd {facts['source_fd']:.3g}; the images "
        f"themselves {facts['real_fd']:.3g}). Noise of a given level is added to them and removed again (SDEdit) by "
        f"{study.translations[name].guided}, with and without its guides. fd: Frechet distance to the training images "
        "in the features of our own small network. Intervals: 95 % over sets of noise."
    )
    rows = f"Rows: the images, their blocks, then translations with and without guides, from noise levels {starts}."
    parts = [f"# {name}", about, "![curves](curves.png)", rows, "![examples](examples.png)"]
    write_file(page / "README.md", "\n\n".join(parts) + "\n")


def _over_starts(table: pd.DataFrame, metric: str) -> list[Curve]:
    columns, rows = ["start", "value", "ci_low", "ci_high"], table.loc[table["metric"] == metric]
    return [Curve(str(entry), *of[columns].to_numpy().T) for entry, of in rows.groupby("entry", sort=False)]


def _against(table: pd.DataFrame) -> list[Curve]:
    wide = table.pivot(index=["entry", "start"], columns="metric", values="value")
    return [Curve(str(entry), *of[["distance", "fd"]].to_numpy().T) for entry, of in wide.groupby("entry", sort=False)]
