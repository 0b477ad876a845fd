"""A dataset's measured values in the report: a column per metric and features, and which results to distrust."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import pandas as pd

from pipeline.config.study import Study
from pipeline.dag.graph import STAGES
from pipeline.dag.lineage import provenance
from pipeline.data.artifacts import MANIFEST
from pipeline.errors import UserError
from pipeline.metrics.features.weights import INCEPTION
from pipeline.store.open import open_store
from pipeline.tables.aggregate import entries_on, repetitions
from pipeline.tables.markdown import markdown_table, plus_minus

FEATURES = {  # what a reader must know of a dataset's distances, by the first extractor that its values have
    INCEPTION: "`fid` uses Inception-v3 features (torch-fidelity's weights), against the training images.",
    "small-cnn": "No value uses Inception features: `fd` is a Frechet distance in the features of our own small "
    "network, not an FID.",
    "attribute-cnn": "No value uses Inception features: `fd` is a Frechet distance in the features of a network that "
    "reads the attributes of a picture, not an FID.",
    "pixels": "No value uses Inception features: `fd` is a Frechet distance of pixels, not an FID.",
    "coordinates": "All values use raw coordinates. `frechet_2d` does not see whether modes are missing: read it "
    "beside `modes`, `mode_kl` and `energy`.",
}


class DatasetValues(NamedTuple):
    """All measured values of a dataset."""

    dataset: str
    rows: pd.DataFrame  # as of `read_values`
    problems: dict[str, list[str]]  # by entry, or by the first of its repetitions
    runs: dict[str, str]  # by guided entry


def read_values(reports: Path, table: str) -> pd.DataFrame:
    """tables/<table>.csv, each row with its `entry` and `column`; the guidance "none" is no missing value."""
    file = reports / "tables" / f"{table}.csv"
    if not file.is_file():
        raise UserError(f"{file}: does not exist: make it with dvc repro first")
    values = pd.read_csv(file, keep_default_na=False, na_values=[""])
    entry = values["run"].where(values["guidance"] == "none", values["guidance"])
    return values.assign(entry=entry, column=_columns(values))


def _columns(values: pd.DataFrame) -> pd.Series:
    """A column per metric and features; values measured differently from most of it get a column named by the card."""
    metric, card = values["metric"], values["card"]
    column = metric.where(card == "counted", metric + " (" + card.str.replace("@.*", "", regex=True) + ")")
    usual = {str(name): Counter(cards).most_common(1)[0][0] for name, cards in card.groupby(column)}
    is_usual = card == [usual[name] for name in column]
    return cast(pd.Series, column.where(is_usual, metric + " (" + card + ")"))


def dataset_values(study: Study, dataset: str) -> DatasetValues:
    rows = read_values(study.folder / "reports", dataset)
    runs = {name: guided.run for name, guided in study.guided.items()}
    return DatasetValues(dataset, rows, _problems(study, dataset, rows), runs)


def _problems(study: Study, dataset: str, rows: pd.DataFrame) -> dict[str, list[str]]:
    """Results that are missing, of another version, or measured differently from the rest."""
    present, entries, store = set(rows["entry"]), entries_on(study, dataset), open_store(study)
    problems: dict[str, list[str]] = {}
    for entry in entries:
        row = next((other for other in [entry, *repetitions(study, entry)] if other in present), entry)
        evaluated = STAGES["evaluate"].call(study, entry)
        if not (evaluated.out / MANIFEST).is_file():
            problem = f"missing: {evaluated.out.relative_to(study.folder)} does not exist (dvc repro)"
        elif not (problem := provenance(study, evaluated, store).warning) and row not in present:
            problem = "missing in this table: dvc repro"
        if problem:
            problems.setdefault(row, []).append(problem)
    for entry in present - set(entries):
        problems[entry] = ["params.yaml does not name it any more: dvc repro"]
    for row in rows.loc[rows["column"].str.contains("@")].to_dict("records"):
        problems.setdefault(row["entry"], []).append(f"{row['metric']} was measured in another way: see its own column")
    return problems


def value_table(values: DatasetValues) -> str:
    cells: dict[str, dict[str, str]] = {}
    real = {"run": "*real*"}  # the row of real-vs-real values
    for row in values.rows.to_dict("records"):
        line = cells.setdefault(row["entry"], {"run": row["run"], "guidance": row["guidance"]})
        line["seeds"] = f"{row['train_seeds']} × {row['sample_seeds']}"
        line[row["column"]] = plus_minus(row["value"], row["ci_low"], row["ci_high"])
        if pd.notna(row["real_vs_real"]):
            real[row["column"]] = f"{row['real_vs_real']:.4g}"
    for entry, problems in values.problems.items():
        described = {"run": values.runs.get(entry, entry), "guidance": entry if entry in values.runs else "none"}
        is_missing = any(problem.startswith("missing") for problem in problems)
        cells.setdefault(entry, described)["state"] = "**missing**" if is_missing else "**doubtful**"
    columns = list(dict.fromkeys(column for line in cells.values() for column in line))
    columns.sort(key=lambda column: column == "state")
    return markdown_table(columns, [[row.get(column, "") for column in columns] for row in (real, *cells.values())])


def features(rows: pd.DataFrame) -> str:
    extractors = {card.partition("@")[0] for card in rows["card"]}
    return next((sentence for extractor, sentence in FEATURES.items() if extractor in extractors), "")


def warnings(values: DatasetValues) -> Iterator[str]:
    """Reasons to distrust values, each once."""
    columns: dict[str, list[str]] = {}
    problems = {problem for of_entry in values.problems.values() for problem in of_entry}
    for row in values.rows.dropna(subset=["warnings"]).to_dict("records"):
        for warning in set(row["warnings"].split("; ")) - problems:
            columns.setdefault(warning, []).append(row["column"])
    lines = [f"- **{entry}**: {'; '.join(dict.fromkeys(of_entry))}" for entry, of_entry in values.problems.items()]
    lines += [f"- {', '.join(dict.fromkeys(names))}: {warning}" for warning, names in columns.items()]
    if lines:
        yield "\n".join(lines)


def comparison_table(rows: pd.DataFrame) -> str:
    """Each verdict with its scope: these checkpoints, or the method."""
    lines = []
    for row in rows.to_dict("records"):
        difference = f"{row['difference']:+.3g} [{row['ci_low']:+.3g}, {row['ci_high']:+.3g}]"
        verdict = row["verdict"] if row["verdict"] == "not resolvable" else f"**{row['verdict']}**"
        sides = [f"{row[side]:.4g}" for side in ("unguided", "guided")]
        lines.append([row["guidance"], row["column"], *sides, difference, f"{verdict} {row['scope']}"])
    return markdown_table(["guidance", "metric", "unguided", "guided", "difference [95 %]", "verdict"], lines)
