"""reports/translations/NAME: realism against faithfulness of pictures made real again, as a page with figures."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.image import imsave

from pipeline.artifacts import read_artifact
from pipeline.config import load_study
from pipeline.figures import Curve, Panel, curves, save
from pipeline.intervals import interval
from pipeline.pictures import grid
from pipeline.stages.translate import EXAMPLES, ROWS

AXES = {"distance": "squared distance to the input", "fd": "fd"}
NAMES = {True: "with guides", False: "without"}


def write_translation_page(folder: Path, name: str) -> None:
    study = load_study(folder / "params.yaml")
    made = read_artifact(study.out / "translate" / name)
    page = folder / "reports" / "translations" / name
    page.mkdir(parents=True, exist_ok=True)
    table = summary(pd.read_parquet(made.path / ROWS))
    table.to_csv(page / "table.csv", index=False, lineterminator="\n", float_format="%.6g")
    panels = {title: Panel(_over_starts(table, value), "start", is_log=True) for value, title in AXES.items()}
    panels["realism against faithfulness"] = Panel(_against(table), AXES["distance"])
    save(curves(panels), page / "curves.png")
    examples = np.load(made.path / EXAMPLES)
    picture = grid(examples.reshape(-1, *examples.shape[2:]), columns=examples.shape[1])
    imsave(page / "examples.png", picture, cmap="gray", vmin=0, vmax=255, metadata={"Software": "trilemma"})
    facts = made.manifest.facts
    starts = ", ".join(f"{start:g}" for start in table["start"].unique())
    about = (
        f"{facts['images']} held-out pictures of 2x2 blocks (fd {facts['source_fd']:.3g}; of the pictures themselves "
        f"{facts['real_fd']:.3g}) get noise of a level and are denoised again (SDEdit), by "
        f"{study.translations[name].guided} with its guides and without. fd: Frechet distance to the training pictures "
        "in the features of our own small network. Intervals: 95 % over sets of noise."
    )
    rows = f"Rows: the pictures, their blocks, then with guides and without from {starts}."
    parts = [f"# {name}", about, "![curves](curves.png)", rows, "![examples](examples.png)"]
    (page / "README.md").write_text("\n\n".join(parts) + "\n")


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per start, with guides and without: means over sets and their 95 % intervals."""
    lines = []
    for start, is_guided in rows[["start", "is_guided"]].drop_duplicates().itertuples(index=False):
        sets = rows.loc[(rows["start"] == start) & (rows["is_guided"] == is_guided)]
        found = {value: interval(sets[value].to_numpy()) for value in AXES}
        bounds = {f"{value}_{end}": getattr(of, end) for value, of in found.items() for end in ("mean", "low", "high")}
        lines.append({"start": start, "is_guided": is_guided, "sets": len(sets)} | bounds)
    return pd.DataFrame(lines)


def _over_starts(table: pd.DataFrame, value: str) -> list[Curve]:
    ends = [f"{value}_mean", f"{value}_low", f"{value}_high"]
    return [Curve(label, *of[["start", *ends]].to_numpy().T) for label, of in _by_guidance(table)]


def _against(table: pd.DataFrame) -> list[Curve]:
    return [Curve(label, *of[["distance_mean", "fd_mean"]].to_numpy().T) for label, of in _by_guidance(table)]


def _by_guidance(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(label, table.loc[table["is_guided"] == is_guided]) for is_guided, label in NAMES.items()]
