"""`trilemma report`: what was measured and what it cost, as a page with tables and pictures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.image import imsave

from pipeline.aggregate import entries_on
from pipeline.budget import budget_section
from pipeline.claims import claims_section, write_ledger
from pipeline.config import Study, load_study
from pipeline.dag import STAGES, entries, taught
from pipeline.denoising_paths import LOG_RATIO
from pipeline.extractor_weights import INCEPTION
from pipeline.figures import Bar, bars, log_ratio_curves, loss_curves, save, scatter
from pipeline.immune import IMMUNITY_FILE
from pipeline.judge import facts_of
from pipeline.markdown import markdown_table
from pipeline.mixture_judge import raw
from pipeline.pictures import grid, path_grid
from pipeline.runner import inputs_of, open_store
from pipeline.shards import read_pictures
from pipeline.stack_tables import stack_sections

README_START, README_END = "<!-- results -->", "<!-- end of results -->"
HEADLINE = (
    "fid", "fd", "precision", "recall", "accuracy", "hq", "modes", "mode_kl", "energy", "frechet_2d", "nfe",
)  # fmt: skip
FEATURES = {  # what a reader must know of a dataset's distances, by the first extractor that its values have
    INCEPTION: "`fid` is in Inception-v3 features (torch-fidelity's weights), against the training pictures.",
    "digits-cnn": "No value is in Inception features: `fd` is a Frechet distance in those of our own small network, "
    "not an FID.",
    "pixels": "No value is in Inception features: `fd` is a Frechet distance of pixels, not an FID.",
    "coordinates": "All values are in raw coordinates; `frechet_2d` is blind to modes: read it beside `modes`, "
    "`mode_kl` and `energy`.",
}
SHOWN = 40  # pictures of a grid
SHOWN_POINTS = 4_000
COST_COLUMNS = (
    "stage", "name", "event", "backend", "workers", "device", "seconds", "seconds_per_image", "cpu_seconds",
    "peak_memory_mib", "resumed", "time", "torch", "commit", "key",
)  # fmt: skip


def write_report(folder: Path) -> None:
    """reports/README.md and reports/figures/, from the entries of params.yaml; cost.md and tables/cost.csv beside them.

    Costs are circumstance: they come from the ledger, and no file that DVC watches holds one.
    """
    study = load_study(folder / "params.yaml")
    figures = folder / "reports" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for old in figures.iterdir():
        old.unlink()
    cost = cost_table(study)
    cost.to_csv(folder / "reports" / "tables" / "cost.csv", index=False, lineterminator="\n")
    (folder / "reports" / "cost.md").write_text(_cost(cost) + "\n" + budget_section(study))
    measured = [name for name in study.datasets if entries_on(study, name)]
    sections = [HEAD, *(part for name in measured for part in _dataset(study, name, folder))]
    sections += [part for name in study.stacks for part in stack_sections(study, name, folder / "reports")]
    sections += _further_pages(study)
    sections.append(claims_section(write_ledger(folder / "reports", study.root / "reports" / "papers")))
    (folder / "reports" / "README.md").write_text("\n\n".join(sections) + "\n")
    _refresh_readme(study, folder)


HEAD = """# What was measured

Every value is a mean with its 95 % interval (Student's t): over training seeds where a method has several, else over
the sampling seeds of its one network. *Real* is the floor: the same metric for real samples against real ones, at the
same number. Verdicts compare the same training and sampling seeds; with fewer than three training seeds they speak of
the trained networks at hand, not of the method. The complete tables, with a card for every value, are in `tables/`;
what it cost is in `cost.md`."""


def _further_pages(study: Study) -> list[str]:
    """What other stages write for people."""
    pages = [f"[sweep {name}](sweeps/{entry.get('table', name)}.md)" for name, entry in study.sweeps.items()]
    pages += [f"[image to image: {name}](translations/{name}/README.md)" for name in study.translations]
    pages += [f"[exactly known worlds: {name}](toys/{name}/README.md)" for name in study.toys]
    return [f"Further pages: {', '.join(pages)}."] if pages else []


def _refresh_readme(study: Study, folder: Path) -> None:
    """The first table a visitor sees is the measured one: written between the marks of the project's README."""
    readme = folder / "README.md"
    if folder != study.root or not readme.is_file():
        return
    before, start, rest = readme.read_text().partition(README_START)
    _, end, after = rest.partition(README_END)
    if end:
        tables = "\n\n".join(
            _headline(name, _read_values(name, folder)) for name in study.datasets if entries_on(study, name)
        )
        readme.write_text(f"{before}{start}\n{tables}\n{end}{after}")


def _headline(dataset: str, values: pd.DataFrame) -> str:
    shown = values.loc[values["metric"].isin(HEADLINE) & ~values["card"].str.startswith("pixels")]
    first = shown.to_dict("records")[0]
    about = (
        f"*{dataset}: mean ± 95 % interval; {first['n_generated']:.0f} samples per sampling seed; real against real in "
        f"the first row. {_features(shown)}*"
    )
    return f"{_value_table(shown)}\n\n{about}"


def _features(values: pd.DataFrame) -> str:
    found = set(values["card"].str.partition("@")[0])
    return next(sentence for extractor, sentence in FEATURES.items() if extractor in found)


def cost_table(study: Study) -> pd.DataFrame:
    """One row per stage of the study: its latest computation in the ledger, and who did it."""
    store = open_store(study)
    rows: list[dict[str, Any]] = []
    for stage, names in entries(study).items():
        for name in names:
            call = STAGES[stage](study, name)
            inputs = {role: artifact.digest for role, artifact in inputs_of(study, call).items()}
            key = call.key(study.root, inputs)
            computed = [line for line in store.notes(key) if line["event"] == "computed"]
            rows += [line | {"key": key[:12]} for line in computed[-1:]]
    return pd.DataFrame(rows).reindex(columns=list(COST_COLUMNS))


def _dataset(study: Study, dataset: str, folder: Path) -> Iterator[str]:
    values = _read_values(dataset, folder)
    yield f"## {dataset}"
    yield _features(values)
    yield _value_table(values)
    yield from _warnings(values)
    figure = _save_bars(values, folder / "reports" / "figures" / f"{dataset}.png")
    yield f"![metrics of {dataset}, with intervals and floors](figures/{figure.name})"
    comparisons = pd.read_csv(folder / "reports" / "tables" / f"{dataset}-guidance.csv")
    if len(comparisons):
        yield "### Guided against unguided, the same training and sampling seeds"
        yield _comparison_table(comparisons)
    yield "### What these metrics can see"
    yield _immunity(study, dataset)
    for run, guidance in values[["run", "guidance"]].drop_duplicates().itertuples(index=False):
        entry = run if guidance == "none" else guidance
        yield f"### {entry}"
        yield "\n\n".join(_entry_pictures(study, run, entry, folder / "reports" / "figures"))


def _read_values(dataset: str, folder: Path) -> pd.DataFrame:
    """The guidance "none" is a word, not a missing value."""
    return pd.read_csv(folder / "reports" / "tables" / f"{dataset}.csv", keep_default_na=False, na_values=[""])


def _column(metric: str, card: str) -> str:
    """A metric in one kind of feature is one column; in another kind, another."""
    extractor = card.partition("@")[0]
    return metric if extractor == "counted" else f"{metric} ({extractor})"


def _value_table(values: pd.DataFrame) -> str:
    cells: dict[tuple[str, str], dict[str, str]] = {}
    floors: dict[str, str] = {}
    for row in values.to_dict("records"):
        column = _column(row["metric"], row["card"])
        half = (row["ci_high"] - row["ci_low"]) / 2
        text = f"{row['value']:.4g}" + (f" ± {half:.2g}" if half > 0 else "")
        found = cells.setdefault((row["run"], row["guidance"]), {})
        found |= {"seeds": f"{row['train_seeds']} × {row['sample_seeds']}", column: text}
        if pd.notna(row["floor"]):
            floors[column] = f"{row['floor']:.4g}"
    columns = list(dict.fromkeys(column for found in cells.values() for column in found))
    lines = [[run, guidance, *(found.get(c, "") for c in columns)] for (run, guidance), found in cells.items()]
    return markdown_table(
        ["run", "guidance", *columns], [["*real*", "", *(floors.get(c, "") for c in columns)], *lines]
    )


def _warnings(values: pd.DataFrame) -> Iterator[str]:
    """What makes a value doubtful, once each."""
    columns: dict[str, list[str]] = {}
    for row in values.dropna(subset=["warnings"]).to_dict("records"):
        for warning in row["warnings"].split("; "):
            columns.setdefault(warning, []).append(_column(row["metric"], row["card"]))
    if columns:
        yield "\n".join(f"- {', '.join(dict.fromkeys(names))}: {warning}" for warning, names in columns.items())


def _comparison_table(table: pd.DataFrame) -> str:
    rows = [
        [
            row["guidance"],
            _column(row["metric"], row["card"]),
            f"{row['unguided']:.4g}",
            f"{row['guided']:.4g}",
            f"{row['difference']:+.3g} [{row['ci_low']:+.3g}, {row['ci_high']:+.3g}]",
            row["verdict"] if row["verdict"] == "not resolvable" else f"**{row['verdict']}** {row['scope']}",
        ]
        for row in table.to_dict("records")
    ]
    return markdown_table(["guidance", "metric", "unguided", "guided", "difference [95 %]", "verdict"], rows)


def _immunity(study: Study, dataset: str) -> str:
    """The known-answer cases, and the smallest change that one value shows."""
    found = json.loads((study.out / "immune" / dataset / IMMUNITY_FILE).read_text())
    faults = [
        [case["fault"], ", ".join(case["by"]) if case["detected"] else "**missed**"] for case in found["findings"]
    ]
    powers = [
        [metric, f"{found['usual'][metric]:.3g}", f"{power:.2g}"] for metric, power in found["resolving_power"].items()
    ]
    verdict = "All is well" if found["is_healthy"] else "**Do not trust these metrics here**"
    about = (
        f"{verdict}: known faults were seeded into real samples (n = {found['n']} against {found['n_real']} others); "
        f"{found['clean_repetitions']} clean repetitions raised {found['clean_alarms']} false alarms."
    )
    cases = markdown_table(["fault", "noticed by"], faults)
    return "\n\n".join(
        [about, cases, markdown_table(["metric", "real against real", "a single value resolves"], powers)]
    )


def _save_bars(values: pd.DataFrame, file: Path) -> Path:
    panels: dict[str, list[Bar]] = {}
    for row in values.to_dict("records"):
        if pd.notna(row["floor"]):
            label = row["run"] if row["guidance"] == "none" else row["guidance"]
            bar = Bar(label, row["value"], row["ci_low"], row["ci_high"], row["floor"])
            panels.setdefault(_column(row["metric"], row["card"]), []).append(bar)
    return save(bars(panels), file)


def _entry_pictures(study: Study, run: str, entry: str, figures: Path) -> Iterator[str]:
    out = study.out
    samples = read_pictures(out / "sample" / entry, "samples-0").images
    if samples.ndim == 2:
        facts = facts_of(out / "prepare" / study.runs[run].dataset)
        points = raw(samples[:SHOWN_POINTS], facts["affine"])
        file = save(scatter(points, np.array(facts["law"]["centres"])), figures / f"{entry}-samples.png")
        yield f"![{len(points)} samples and the centres of the modes](figures/{file.name})"
    else:
        yield _picture(grid(samples[:SHOWN], 10), figures / f"{entry}-samples.png", "samples, a class per column")
    path = out / "sample" / entry / "path.npy"
    if path.is_file() and samples.ndim == 4:
        yield _picture(path_grid(list(np.load(path))), figures / f"{entry}-path.png", "denoising, left to right")
    yield from _log_ratio(out / "sample" / entry / LOG_RATIO, figures / f"{entry}-log-ratio.png")
    trained = [(out / "pretrain" / run, entry)] if run == entry else []
    if run != entry:
        trained = [(taught(study, use["guide"]), use["guide"]) for use in study.guided[entry].guides]
    for folder, name in trained:
        file = save(loss_curves(pd.read_parquet(folder / "history.parquet")), figures / f"{name}-training.png")
        yield f"![training of {name}](figures/{file.name})"


def _log_ratio(rows: Path, file: Path) -> Iterator[str]:
    """Of entries that a discriminator guides."""
    if rows.is_file():
        save(log_ratio_curves(pd.read_parquet(rows)), file)
        yield f"![what the discriminator says along guided and unguided paths](figures/{file.name})"


def _picture(image: np.ndarray, file: Path, caption: str) -> str:
    imsave(file, image, cmap="gray", vmin=0, vmax=255, metadata={"Software": "trilemma"})  # no versions: same bytes
    return f"{caption}:\n\n![{caption}](figures/{file.name})"


def _cost(cost: pd.DataFrame) -> str:
    shown = cost[["stage", "name", "backend", "seconds", "seconds_per_image", "cpu_seconds", "peak_memory_mib"]]
    table = markdown_table(list(shown.columns), shown.astype(object).where(shown.notna(), "").values.tolist())
    total = f"Together {cost['seconds'].sum():.0f} seconds; CPU seconds in Ray's processes are not known."
    return f"# What it cost\n\nEvery stage when it was last computed.\n\n{table}\n\n{total}\n"
