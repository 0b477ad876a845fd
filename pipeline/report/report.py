"""`trilemma report`: measured values and their cost as Markdown with tables and figures, and all of it as one page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline.config.study import Study, load_study
from pipeline.console import say
from pipeline.data.csv_files import csv_text
from pipeline.report.costs import cost_page, cost_table
from pipeline.report.dataset_section import answer_sections, method_sections, result_sections
from pipeline.report.measured_section import measured_sections
from pipeline.report.page import write_page
from pipeline.report.page_lineage import page_lineage
from pipeline.report.pareto_plot import Trilemma, trilemma
from pipeline.report.readme_table import refresh_readme
from pipeline.report.results_view import save_views
from pipeline.report.stack_section import StackValues, stack_sections, stack_values
from pipeline.report.sweep_page import write_sweep_samples
from pipeline.report.values_section import DatasetValues, dataset_values
from pipeline.report.verdicts import Field, field
from pipeline.store.files import temporary, write_file
from pipeline.store.publish import publish_folder
from pipeline.tables.aggregate import entries_on, method_names
from pipeline.tables.cells import PAPERS, TRANSLATION_FILE
from pipeline.tables.claims import LEDGER, claims_section, write_ledger
from pipeline.tables.measured import measured_files
from pipeline.tracking.backend import TrackingError
from pipeline.tracking.mlflow_run import connect

FIGURES = "figures"
METRICS = "metrics.json"  # for `dvc metrics diff`
HEAD = """Every value is a mean with its 95 % interval (Student's t): over training seeds where a method has several,
otherwise over the sampling seeds of its one network. The row *real* is the real-vs-real value: the same metric between
two sets of real samples, as many as were generated. Verdicts compare the same training and sampling seeds; with fewer
than three training seeds a verdict is about the trained networks, not about the method. The complete tables, with a
card for every value, are in `tables/`; costs are in `cost.md`; `index.html` shows all of this on one page, with
quality, coverage and cost as a plot."""


class Texts(NamedTuple):
    """Markdown of the parts of README.md, which are parts of the page too."""

    answers: str
    results: str
    methods: str
    papers: str


def write_report(folder: Path) -> None:
    """reports/README.md, metrics.json and figures/, from the entries of params.yaml; with costs: cost.md, index.html.

    Costs differ from run to run: they come from the ledger, and no file that DVC watches holds one.
    """
    study = load_study(folder / "params.yaml")
    reports = folder / "reports"
    datasets = [dataset_values(study, name) for name in study.datasets if entries_on(study, name)]
    fields = {values.dataset: field(study, values.dataset) for values in datasets}
    stacks = [stack_values(study, name) for name in study.stacks]
    experiment, again = f"{study.name}/report", {"trilemma.report": study.name}
    with connect(study.root).open_run(experiment, "report", {}, {}, {}, again=again) as run:
        cost, pages = cost_table(study), _pages(study)
        texts = _write_texts(study, reports, datasets, fields, stacks, cost, pages)
        written = [*(reports / "tables").glob("*.csv"), *(reports / PAPERS).glob("*")]
        written = sorted([*written, *reports.glob(f"*/*/{TRANSLATION_FILE}")]) + _of_other_studies(study)
        tables = [file.relative_to(reports).as_posix() for file in written if file.suffix == ".csv"] + [LEDGER]
        papers = [file.relative_to(reports).as_posix() for file in written if file.suffix == ".md"]
        samples = [file for name in study.sweeps if (file := write_sweep_samples(study, name))]
        for file in [file for file in [*papers, *pages, *samples, *tables] if not (reports / file).is_file()]:
            say(f"report: {file}: does not exist yet: the page goes without it (dvc repro)")
        parts = {
            "results": {"README.md": texts.results},
            "methods": {"methods": texts.methods} | _read(reports, [file for file in pages if "/README" in file]),
            "sweeps": _read(reports, [*(file for file in pages if "/README" not in file), *samples]),
            "papers": _read(reports, papers) | {"ledger": texts.papers},
            "cost": _read(reports, ["cost.md"]),
        }
        tables = [file for file in tables if (reports / file).is_file()]
        trilemmas = _trilemmas(study, datasets, stacks, cost)
        page = write_page(reports, texts.answers, parts, tables, trilemmas, page_lineage(study), study.name)
        for file in tables:
            name = file.removeprefix("tables/").removesuffix(".csv").replace("/", "-")
            run.table(f"{name}.json", pd.read_csv(reports / file))
        run.file(page)
    refresh_readme(study, [of for of in fields.values() if of is not None], cost)
    try:
        save_views(study)
    except TrackingError as error:
        say(f"report: {error}; the table of results in MLflow stays as it was")


def _read(reports: Path, files: list[str]) -> dict[str, str]:
    return {file: (reports / file).read_text() for file in files if (reports / file).is_file()}


def _write_texts(
    study: Study,
    reports: Path,
    datasets: list[DatasetValues],
    fields: Mapping[str, Field | None],
    stacks: list[StackValues],
    cost: pd.DataFrame,
    pages: dict[str, str],
) -> Texts:
    """Everything except the page; the earlier report stays until all figures are drawn."""
    for values in datasets:
        for entry, problems in values.problems.items():
            say(f"report: {values.dataset}: {entry}: {'; '.join(dict.fromkeys(problems))}")
    with temporary(reports / FIGURES) as drawn:
        drawn.mkdir()
        answers = [text for name, of in fields.items() for text in answer_sections(study, name, of, drawn)]
        results = [HEAD, *(text for values in datasets for text in result_sections(values, reports, drawn))]
        results += [text for values in stacks for text in stack_sections(study, values, drawn)]
        methods = [text for values in datasets for text in method_sections(study, values, drawn)]
        publish_folder(drawn, reports / FIGURES)
    write_file(reports / "tables" / "cost.csv", csv_text(cost, digits=None))
    write_file(reports / "cost.md", cost_page(cost))
    if pages:
        methods.append(f"Further pages: {', '.join(f'[{title}]({file})' for file, title in pages.items())}.")
    papers = list(measured_sections(study.root)) if _of_other_studies(study) else []
    papers.append(claims_section(write_ledger(reports, study.root / "reports" / "papers", study.analogues)))
    texts = Texts(*("\n\n".join(part) + "\n" for part in (answers, results, methods, papers)))
    write_file(reports / "README.md", "# What was measured\n\n" + "\n".join(texts))
    numbers = {
        values.dataset: {
            str(entry): dict(zip(rows["column"], rows["value"]))
            for entry, rows in values.rows.groupby("entry", sort=False)
        }
        for values in datasets
    }
    write_file(reports / METRICS, json.dumps(numbers, indent=1) + "\n")
    return texts


def _of_other_studies(study: Study) -> list[Path]:
    """Committed tables, which only the project's own report shows."""
    return measured_files(study.root) if study.folder == study.root else []


def _pages(study: Study) -> dict[str, str]:
    """Pages that other stages write: titles by file."""
    pages = {f"sweeps/{entry.get('table', name)}.md": f"sweep {name}" for name, entry in study.sweeps.items()}
    return pages | {f"translations/{name}/README.md": f"image to image: {name}" for name in study.translations}


def _trilemmas(
    study: Study, datasets: list[DatasetValues], stacks: list[StackValues], cost: pd.DataFrame
) -> dict[str, Trilemma]:
    """Of datasets, and of stacks, whose members have no seconds of their own."""
    seconds = cost.loc[cost["stage"] == "sample"].set_index("name")["seconds_per_image"]
    plots = {
        values.dataset: trilemma(values.rows, seconds, method_names(study, entries_on(study, values.dataset)))
        for values in datasets
    }
    for name, rows, _ in stacks:
        rows = rows.assign(entry=rows["method"] + "-" + rows["steps"].astype(str), nfe=rows["steps"])
        plots[name] = trilemma(rows, pd.Series(dtype=float), {})
    return {name: plot for name, plot in plots.items() if plot is not None}
