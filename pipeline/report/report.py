"""`trilemma report`: what was measured and what it cost, as texts with tables and pictures, and as one page."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.image import imsave

from pipeline.config.study import Study, load_study
from pipeline.console import say
from pipeline.dag.graph import STAGES, entries, taught
from pipeline.dag.run import inputs_of
from pipeline.data.artifacts import MANIFEST, facts_of, read_artifact
from pipeline.data.csv_files import write_csv
from pipeline.data.image_grid import grid, path_grid
from pipeline.data.shards import read_pictures
from pipeline.errors import ArtifactError
from pipeline.metrics.mixture_metrics import raw
from pipeline.metrics.sensitivity import SENSITIVITY_FILE
from pipeline.report.figures import Bar, bars, log_ratio_curves, loss_curves, save, scatter
from pipeline.report.measured_section import measured_sections
from pipeline.report.page import write_page
from pipeline.report.page_lineage import page_chains
from pipeline.report.pareto_plot import Trilemma, trilemma
from pipeline.report.stack_section import stack_sections
from pipeline.report.sweep_pictures import write_sweep_pictures
from pipeline.report.values_section import (
    comparison_table,
    doubts,
    features,
    headline,
    read_values,
    value_table,
    warnings,
)
from pipeline.sampling.recording import LOG_RATIO
from pipeline.store.open import open_store
from pipeline.tables.aggregate import entries_on
from pipeline.tables.cells import PAGED, PAPERS
from pipeline.tables.claims import LEDGER, claims_section, write_ledger
from pipeline.tables.markdown import markdown_table
from pipeline.tables.measured import measured_files
from pipeline.tracking.mlflow_run import connect

README_START, README_END = "<!-- results -->", "<!-- end of results -->"
METRICS = "metrics.json"  # for `dvc metrics diff`
SHOWN = 40  # pictures of a grid
SHOWN_POINTS = 4_000
COST_COLUMNS = (
    "stage", "name", "event", "nfe", "guide_calls", "backend", "workers", "device", "seconds", "seconds_per_image",
    "cpu_seconds", "peak_memory_mib", "resumed", "time", "torch", "commit", "key",
)  # fmt: skip
SHOWN_COSTS = (
    "stage", "name", "nfe", "guide_calls", "backend", "seconds", "seconds_per_image", "cpu_seconds", "peak_memory_mib",
    "event",
)  # fmt: skip


def write_report(folder: Path) -> None:
    """reports/README.md, metrics.json and figures/, from the entries of params.yaml; with costs: cost.md, index.html.

    Costs are circumstance: they come from the ledger, and no file that DVC watches holds one.
    """
    study = load_study(folder / "params.yaml")
    reports = folder / "reports"
    measured = {name: read_values(reports, name) for name in study.datasets if entries_on(study, name)}
    experiment, again = f"{study.name}/report", {"trilemma.report": study.name}
    with connect(study.root).open_run(experiment, "report", {}, {}, {}, again=again) as run:
        cost = cost_table(study)
        further = _write_texts(study, reports, measured, cost)
        for file in further:
            if not (reports / file).is_file():
                say(f"report: {file}: does not exist yet: the page goes without it (dvc repro)")
        further += [file for name in study.sweeps if (file := write_sweep_pictures(study, name))]
        found = sorted(
            [*(reports / "tables").glob("*.csv"), *(reports / PAPERS).glob("*"), *reports.glob(f"*/*/{PAGED}")]
        )
        found += _beyond(study)
        tables = [file.relative_to(reports).as_posix() for file in found if file.suffix == ".csv"]
        papers = [file.relative_to(reports).as_posix() for file in found if file.suffix == ".md"]
        files = ["README.md", *papers, *further, "cost.md", *tables, LEDGER]
        shown = [file for file in files if (reports / file).is_file()]
        page = write_page(reports, shown, _trilemmas(study, measured, cost), page_chains(study), study.name)
        for file in [*tables, LEDGER]:
            name = file.removeprefix("tables/").removesuffix(".csv").replace("/", "-")
            run.table(f"{name}.json", pd.read_csv(reports / file))
        run.file(page)


def _write_texts(study: Study, reports: Path, measured: dict[str, pd.DataFrame], cost: pd.DataFrame) -> list[str]:
    """All but the page; the files that other stages wrote for people."""
    doubtful = {name: doubts(study, name, values) for name, values in measured.items()}
    for name, entry, said in [(name, entry, said) for name, of in doubtful.items() for entry, said in of.items()]:
        say(f"report: {name}: {entry}: {'; '.join(dict.fromkeys(said))}")
    figures = reports / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for old in figures.iterdir():
        old.unlink()
    write_csv(cost, reports / "tables" / "cost.csv", digits=None)
    (reports / "cost.md").write_text(_cost(cost))
    sections = [HEAD]
    for name, values in measured.items():
        sections += _dataset(study, name, values, doubtful[name], reports)
    sections += [part for name in study.stacks for part in stack_sections(study, name, reports)]
    further = _further_pages(study)
    if further:
        sections.append(f"Further pages: {', '.join(f'[{title}]({file})' for file, title in further.items())}.")
    sections += measured_sections(study.root) if _beyond(study) else []
    sections.append(claims_section(write_ledger(reports, study.root / "reports" / "papers")))
    (reports / "README.md").write_text("\n\n".join(sections) + "\n")
    numbers = {name: _numbers(values) for name, values in measured.items()}
    (reports / METRICS).write_text(json.dumps(numbers, indent=1) + "\n")
    _refresh_readme(study, measured, doubtful)
    return list(further)


def _beyond(study: Study) -> list[Path]:
    """Tables of other studies: the project's own report shows them."""
    return measured_files(study.root) if study.folder == study.root else []


HEAD = """# What was measured

Every value is a mean with its 95 % interval (Student's t): over training seeds where a method has several, else over
the sampling seeds of its one network. The row *real* is the real-vs-real value: the same metric for real samples
against other real ones, at the same number. Verdicts compare the same training and sampling seeds; with fewer than
three training seeds they are about the trained networks at hand, not about the method. The complete tables, with a card
for every value, are in `tables/`; what it cost is in `cost.md`, and `index.html` is all of this on one page, with the
trilemma as a plot."""


def _further_pages(study: Study) -> dict[str, str]:
    """What other stages write for people: titles by file."""
    pages = {f"sweeps/{entry.get('table', name)}.md": f"sweep {name}" for name, entry in study.sweeps.items()}
    return pages | {f"translations/{name}/README.md": f"image to image: {name}" for name in study.translations}


def _numbers(values: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By entry and column."""
    return {str(entry): dict(zip(of["column"], of["value"])) for entry, of in values.groupby("entry", sort=False)}


def _trilemmas(study: Study, measured: dict[str, pd.DataFrame], cost: pd.DataFrame) -> dict[str, Trilemma]:
    """Of datasets, and of stacks, whose members are timed together only."""
    seconds = cost.loc[cost["stage"] == "sample"].set_index("name")["seconds_per_image"]
    found = {name: trilemma(values, seconds) for name, values in measured.items()}
    for name in study.stacks:
        cells = pd.read_csv(study.folder / "reports" / "tables" / f"{name}.csv")
        cells = cells.assign(entry=cells["method"] + "-" + cells["steps"].astype(str), nfe=cells["steps"])
        found[name] = trilemma(cells, pd.Series(dtype=float))
    return {name: plot for name, plot in found.items() if plot is not None}


def _refresh_readme(study: Study, measured: dict[str, pd.DataFrame], doubtful: dict[str, dict[str, list[str]]]) -> None:
    """The first table a visitor sees is the measured one: written between the marks of the project's README."""
    readme = study.folder / "README.md"
    if study.folder != study.root or not readme.is_file():
        return
    before, start, rest = readme.read_text().partition(README_START)
    _, end, after = rest.partition(README_END)
    if end:
        tables = "\n\n".join(
            headline(name, values, doubtful[name], runs_of(study)) for name, values in measured.items()
        )
        readme.write_text(f"{before}{start}\n{tables}\n{end}{after}")


def runs_of(study: Study) -> dict[str, str]:
    return {name: guided.run for name, guided in study.guided.items()}


def cost_table(study: Study) -> pd.DataFrame:
    """One row per stage of the study: its latest computation in the ledger, and who did it."""
    store = open_store(study)
    rows: list[dict[str, Any]] = []
    for stage, names in entries(study).items():
        for name in names:
            call = STAGES[stage].call(study, name)
            row = {"stage": stage, "name": name, "event": "missing"}
            try:
                inputs = {role: artifact.digest for role, artifact in inputs_of(study, call).items()}
                facts = read_artifact(call.out).manifest.facts
            except ArtifactError:
                rows.append(row)
                continue
            key = call.key(study.root, inputs)
            computed = [line for line in store.notes(key) if line["event"] == "computed"]
            known = computed[-1] if computed else {"event": "of a version that this store does not know"}
            counted = {name: facts[name] for name in ("nfe", "guide_calls") if name in facts}
            rows.append(row | counted | known | {"key": key[:12]})
    return pd.DataFrame(rows).reindex(columns=list(COST_COLUMNS))


def _dataset(
    study: Study, dataset: str, values: pd.DataFrame, doubtful: dict[str, list[str]], reports: Path
) -> Iterator[str]:
    yield f"## {dataset}"
    yield features(values)
    yield value_table(values, doubtful, runs_of(study))
    yield from warnings(values, doubtful)
    figure = _save_bars(values, reports / "figures" / f"{dataset}.png")
    yield f"![metrics of {dataset}, with intervals and real-vs-real values](figures/{figure.name})"
    comparisons = read_values(reports, f"{dataset}-guidance")
    if len(comparisons):
        yield "### Guided against unguided, the same training and sampling seeds"
        yield comparison_table(comparisons)
    yield "### What these metrics can see"
    yield _sensitivity(study, dataset)
    for entry, nfe in values.loc[values["metric"] == "nfe", ["entry", "value"]].itertuples(index=False):
        yield f"### {entry}"
        yield "\n\n".join(_entry_pictures(study, entry, nfe, reports / "figures"))


def _sensitivity(study: Study, dataset: str) -> str:
    """The known-answer cases, and the smallest change that one value shows."""
    file = study.out / "check-metrics" / dataset / SENSITIVITY_FILE
    if not file.is_file():
        say(f"report: check-metrics {dataset}: missing: dvc repro")
        return "**Missing**: nobody asked yet (`dvc repro`)."
    found = json.loads(file.read_text())
    faults = [
        [case["fault"], ", ".join(case["by"]) if case["detected"] else "**missed**"] for case in found["findings"]
    ]
    powers = [
        [metric, f"{found['usual'][metric]:.3g}", f"{power:.2g}"] for metric, power in found["resolving_power"].items()
    ]
    verdict = "All is well" if found["all_faults_detected"] else "**Do not trust these metrics here**"
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
        if pd.notna(row["real_vs_real"]):
            bar = Bar(row["entry"], row["value"], row["ci_low"], row["ci_high"], row["real_vs_real"])
            panels.setdefault(row["column"], []).append(bar)
    return save(bars(panels), file)


def _entry_pictures(study: Study, entry: str, nfe: float, figures: Path) -> Iterator[str]:
    sampled = study.out / "sample" / entry
    if not (sampled / MANIFEST).is_file():
        yield "Its pictures are missing (`dvc repro`)."
        return
    run = study.guided[entry].run if entry in study.guided else entry
    samples = read_pictures(sampled, "samples-0").images
    about = f"{entry}, {nfe:g} network evaluations"
    if samples.ndim == 2:
        facts = facts_of(study.out / "prepare" / study.runs[run].dataset)
        points = raw(samples[:SHOWN_POINTS], facts["affine"])
        file = save(scatter(points, np.array(facts["law"]["centres"])), figures / f"{entry}-samples.png")
        yield f"![{about}: {len(points)} samples and the centres of the modes](figures/{file.name})"
    else:
        caption = f"{about}: samples, a class per column"
        yield _picture(grid(samples[:SHOWN], 10), figures / f"{entry}-samples.png", caption)
    path = sampled / "path.npy"
    if path.is_file() and samples.ndim == 4:
        caption = f"{about}: denoising, left to right"
        yield _picture(path_grid(list(np.load(path))), figures / f"{entry}-path.png", caption)
    yield from _log_ratio(sampled / LOG_RATIO, figures / f"{entry}-log-ratio.png")
    trained = [(study.out / "pretrain" / run, entry)] if run == entry else []
    if run != entry:
        trained = [(taught(study, use["guide"]), use["guide"]) for use in study.guided[entry].guides]
    for history, name in [(folder / "history.parquet", name) for folder, name in trained]:
        if history.is_file():
            file = save(loss_curves(pd.read_parquet(history)), figures / f"{name}-training.png")
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
    shown = cost[list(SHOWN_COSTS)]
    rows = [[f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in shown.to_numpy(object)]
    table = markdown_table(list(shown.columns), [["" if cell == "nan" else cell for cell in row] for row in rows])
    total = f"Together {cost['seconds'].sum():.0f} seconds; CPU seconds in Ray's processes are not known."
    return f"# What it cost\n\nEvery stage when it was last computed.\n\n{table}\n\n{total}\n"
