"""A stack's part of the report."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pipeline.config.study import Study
from pipeline.report.figures import save
from pipeline.tables.markdown import markdown_table
from pipeline.tables.stacks import SHOWN, densities


def stack_sections(study: Study, name: str, reports: Path) -> Iterator[str]:
    """A stack's part of the report; the picture goes into reports/figures."""
    table = pd.read_csv(reports / "tables" / f"{name}.csv")
    shown = table[table["metric"].isin(SHOWN)]
    half = (shown["ci_high"] - shown["ci_low"]) / 2
    texts = [f"{value:.3g}" + f" ± {h:.1g}" * (h > 0) for value, h in zip(shown["value"], half)]
    wide = shown.assign(text=texts).pivot(index=["method", "steps"], columns="metric", values="text")
    order = list(dict.fromkeys(zip(shown["method"], shown["steps"])))
    wide = wide.loc[order, list(SHOWN)].reset_index()
    printed = table.dropna(subset="paper_value").set_index(["method", "steps"])["paper_value"]
    wide["printed"] = [printed.get(at, "") for at in zip(wide["method"], wide["steps"])]
    first = table.iloc[0]
    yield f"## {name}"
    yield (
        f"{first.n_modes} Gaussians, network {first.network}, {first.iterations} iterations of batch {first.batch}; "
        f"{first.train_seeds} training and {first.sample_seeds} sampling seeds. The printed values are of another "
        "network and budget; `frechet_2d`, the printed metric, is blind to modes."
    )
    yield markdown_table(list(wide), wide.astype(str).to_numpy().tolist())
    orderings = pd.read_csv(reports / "tables" / f"{name}-orderings.csv")
    if len(orderings):
        counts = pd.crosstab(orderings["metric"], orderings["ordering"]).reset_index()
        yield f"Of {len(orderings) // len(counts)} printed orderings, by metric ({orderings.scope[0]}):"
        yield markdown_table(list(counts), counts.astype(str).to_numpy().tolist())
    figure = save(densities(study, name), reports / "figures" / f"{name}.png")
    yield f"![densities of {name}](figures/{figure.name})"
