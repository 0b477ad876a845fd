"""What was measured on a dataset, as the report shows it: a column per kind of measurement, and what is doubtful."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from pipeline.config.study import Study
from pipeline.dag.graph import STAGES
from pipeline.dag.lineage import provenance
from pipeline.data.artifacts import MANIFEST
from pipeline.errors import UserError
from pipeline.metrics.features.weights import INCEPTION
from pipeline.store.open import open_store
from pipeline.store.store import Store
from pipeline.tables.aggregate import entries_on, repetitions
from pipeline.tables.markdown import markdown_table

HEADLINE = (
    "fid", "fd", "precision", "recall", "accuracy", "hq", "modes", "mode_kl", "energy", "frechet_2d", "nfe",
)  # fmt: skip
FEATURES = {  # what a reader must know of a dataset's distances, by the first extractor that its values have
    INCEPTION: "`fid` is in Inception-v3 features (torch-fidelity's weights), against the training pictures.",
    "small-cnn": "No value is in Inception features: `fd` is a Frechet distance in those of our own small network, "
    "not an FID.",
    "pixels": "No value is in Inception features: `fd` is a Frechet distance of pixels, not an FID.",
    "coordinates": "All values are in raw coordinates; `frechet_2d` is blind to modes: read it beside `modes`, "
    "`mode_kl` and `energy`.",
}


def read_values(reports: Path, table: str) -> pd.DataFrame:
    """tables/<table>.csv, each row with its `entry` and `column`; the guidance "none" is a word, no missing value."""
    file = reports / "tables" / f"{table}.csv"
    if not file.is_file():
        raise UserError(f"{file}: does not exist: make it with dvc repro first")
    values = pd.read_csv(file, keep_default_na=False, na_values=[""])
    entry = values["run"].where(values["guidance"] == "none", values["guidance"])
    return values.assign(entry=entry, column=_columns(values))


def _columns(values: pd.DataFrame) -> list[str]:
    """A metric in one kind of feature is one column; measured in another way than most of it, another, by its card."""
    cards = values["card"].tolist()
    extractors = [card.partition("@")[0] for card in cards]
    plain = [m if e == "counted" else f"{m} ({e})" for m, e in zip(values["metric"].tolist(), extractors)]
    seen: dict[str, Counter[str]] = {}
    for column, card in zip(plain, cards):
        seen.setdefault(column, Counter())[card] += 1
    usual = {column: counts.most_common(1)[0][0] for column, counts in seen.items()}
    return [
        column if card == usual[column] else f"{metric} ({card})"
        for column, card, metric in zip(plain, cards, values["metric"].tolist())
    ]


def doubts(study: Study, dataset: str, values: pd.DataFrame) -> dict[str, list[str]]:
    """By row of the table: results that are missing, of another version, or measured in another way than the rest."""
    rows, wanted, store = set(values["entry"]), entries_on(study, dataset), open_store(study)
    found: dict[str, list[str]] = {}
    for entry in wanted:
        row = next((other for other in [entry, *repetitions(study, entry)] if other in rows), entry)
        said = _said(study, entry, store)
        if row not in rows and not said:
            said = ["missing in this table: dvc repro"]
        if said:
            found.setdefault(row, []).extend(said)
    for entry in rows - set(wanted):
        found[entry] = ["params.yaml does not name it any more: dvc repro"]
    for row in values.loc[values["column"].str.contains("@")].to_dict("records"):
        found.setdefault(row["entry"], []).append(f"{row['metric']} was measured in another way: a column of its own")
    return found


def _said(study: Study, entry: str, store: Store) -> list[str]:
    evaluated = STAGES["evaluate"].call(study, entry)
    if not (evaluated.out / MANIFEST).is_file():
        return [f"missing: {evaluated.out.relative_to(study.folder)} does not exist (dvc repro)"]
    warning = provenance(study, evaluated, store).warning
    return [warning] if warning else []


def value_table(values: pd.DataFrame, doubtful: Mapping[str, list[str]], runs: Mapping[str, str]) -> str:
    """runs: that of a guided entry, by name."""
    cells: dict[str, dict[str, str]] = {}
    real = {"run": "*real*"}  # the row of real-vs-real values
    for row in values.to_dict("records"):
        half = (row["ci_high"] - row["ci_low"]) / 2
        text = f"{row['value']:.4g}" + (f" ± {half:.2g}" if half > 0 else "")
        found = cells.setdefault(row["entry"], {"run": row["run"], "guidance": row["guidance"]})
        found |= {"seeds": f"{row['train_seeds']} × {row['sample_seeds']}", row["column"]: text}
        if pd.notna(row["real_vs_real"]):
            real[row["column"]] = f"{row['real_vs_real']:.4g}"
    for entry, said in doubtful.items():
        guided = {"run": runs.get(entry, entry), "guidance": entry if entry in runs else "none"}
        is_missing = any(sentence.startswith("missing") for sentence in said)
        cells.setdefault(entry, guided)["state"] = "**missing**" if is_missing else "**doubtful**"
    columns = list(dict.fromkeys(column for found in cells.values() for column in found))
    columns.sort(key=lambda column: column == "state")
    return markdown_table(columns, [[row.get(column, "") for column in columns] for row in (real, *cells.values())])


def headline(dataset: str, values: pd.DataFrame, doubtful: Mapping[str, list[str]], runs: Mapping[str, str]) -> str:
    """The README's first table."""
    shown = values.loc[values["metric"].isin(HEADLINE) & ~values["card"].str.startswith("pixels")]
    counts = "/".join(f"{n:.0f}" for n in shown["n_generated"].dropna().unique())
    about = (
        f"*{dataset}: mean ± 95 % interval; {counts} samples per sampling seed; real against real in the first row. "
        f"{features(shown)}*"
    )
    return f"{value_table(shown, doubtful, runs)}\n\n{about}"


def features(values: pd.DataFrame) -> str:
    found = set(values["card"].str.partition("@")[0])
    return next((sentence for extractor, sentence in FEATURES.items() if extractor in found), "")


def warnings(values: pd.DataFrame, doubtful: Mapping[str, list[str]]) -> Iterator[str]:
    """What makes a value doubtful, once each."""
    columns: dict[str, list[str]] = {}
    told = {sentence for said in doubtful.values() for sentence in said}
    for row in values.dropna(subset=["warnings"]).to_dict("records"):
        for warning in set(row["warnings"].split("; ")) - told:
            columns.setdefault(warning, []).append(row["column"])
    lines = [f"- **{entry}**: {'; '.join(dict.fromkeys(said))}" for entry, said in doubtful.items()]
    lines += [f"- {', '.join(dict.fromkeys(names))}: {warning}" for warning, names in columns.items()]
    if lines:
        yield "\n".join(lines)


def comparison_table(table: pd.DataFrame) -> str:
    rows = [
        [
            row["guidance"],
            row["column"],
            f"{row['unguided']:.4g}",
            f"{row['guided']:.4g}",
            f"{row['difference']:+.3g} [{row['ci_low']:+.3g}, {row['ci_high']:+.3g}]",
            row["verdict"] if row["verdict"] == "not resolvable" else f"**{row['verdict']}** {row['scope']}",
        ]
        for row in table.to_dict("records")
    ]
    return markdown_table(["guidance", "metric", "unguided", "guided", "difference [95 %]", "verdict"], rows)
