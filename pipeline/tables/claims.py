"""The ledger of claims: every value the papers print, beside what was measured here, and whether they agree.

reports/papers/ holds the printed values; its analogues.csv names the measured row to compare each of them with. A
measured value keeps the scale it was measured at: it never replaces a printed one.
"""

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import pandas as pd

from pipeline.data.csv_files import csv_text, read_rows
from pipeline.errors import UserError
from pipeline.metrics.intervals import TRAINING_SEEDS_FOR_A_METHOD
from pipeline.store.files import write_file
from pipeline.tables.addresses import Row, fits, names_of
from pipeline.tables.markdown import bounds, markdown_table
from pipeline.tables.measured import FOLDER

KEY = ("paper", "table", "dataset", "conditional", "method", "nfe", "metric")
RECALLED = "recalled, verify"
SAME = "same experiment"  # else: a small-scale analogue
LEDGER = "ledger.csv"
LINE_COLUMNS = ["method (NFE)", "metric", "printed", "measured [95 %]", "cell", "verdict"]
PRINTED_FILES = ("fewstep.csv", "guidance.csv")
ANALOGUES = "analogues.csv"
Tables = dict[str, list[dict[str, str]] | None]  # rows by file; None: the file does not exist


class Counterpart(NamedTuple):
    """The measured row to compare a printed value with; the fields are columns of the ledger."""

    measured: float
    ci_low: float
    ci_high: float
    train_seeds: int
    sample_seeds: int
    scale: str
    card: str
    cell: str  # its address
    warnings: str


NOT_MEASURED = dict.fromkeys(Counterpart._fields) | dict.fromkeys(("scale", "card", "cell", "warnings"), "")


Claim: TypeAlias = dict[str, Any]  # a row of the ledger, and what is "missing": what a counterpart would need


def write_ledger(reports: Path, papers: Path) -> pd.DataFrame:
    """reports/ledger.csv: each printed key once, always with a verdict. papers: the folder of printed values."""
    claims = ledger(reports, papers)
    write_file(reports / LEDGER, csv_text(claims))
    return claims


def ledger(reports: Path, papers: Path) -> pd.DataFrame:
    """A row for each printed value: what was measured, the verdict and its reason."""
    claims = list(_joined(reports, papers))
    for claim in claims:
        claim["verdict"], claim["why"] = _verdict(claim, claims)
    return pd.DataFrame(claims).drop(columns="missing")


def claims_section(claims: pd.DataFrame) -> str:
    """The ledger's part of the report: how many claims have which verdict, and those that were measured."""
    counts = claims["verdict"].value_counts()
    measured = claims.loc[claims["verdict"] != "not run"]
    rows = [[f"{row['paper']}, {row['table'].partition(' (')[0]}", *line(row)] for row in measured.to_dict("records")]
    about = (
        f"Of {len(claims)} printed values {len(measured)} have a measured counterpart ("
        + ", ".join(f"{verdict}: {count}" for verdict, count in counts.items())
        + "). All are small-scale analogues, on other data, networks and budgets: compare their orders, not their "
        "sizes. `ledger.csv` has every printed value with its verdict and the reason."
    )
    return "\n\n".join(["## What the papers print", about, markdown_table(["paper", *LINE_COLUMNS], rows)])


def line(row: Mapping[Hashable, Any]) -> list[str]:
    """A row of the ledger for people, under `LINE_COLUMNS`."""
    measured = f"{row['measured']:.4g}{bounds(row['ci_low'], row['ci_high'], 3)}" if pd.notna(row["measured"]) else ""
    method = f"{row['method']} ({row['nfe']})" if row["nfe"] else row["method"]
    return [method, row["metric"], f"{row['printed']:g}", measured, row["cell"], row["verdict"]]


def _joined(reports: Path, papers: Path) -> Iterator[Claim]:
    """Every printed value with the measured row that `analogues.csv` names for it, if any."""
    printed = _printed(papers)
    analogues = read_rows(papers / ANALOGUES)
    for analogue in analogues:
        if not any(_covers(analogue, key) for key in printed):
            pattern = " / ".join(analogue[name] or "*" for name in KEY)
            raise UserError(f"{ANALOGUES}: no printed value of {pattern}: see the other files beside it")
    tables: Tables = {}
    for key, row in printed.items():
        counterpart, missing = None, f"a training on {row['dataset']}"
        analogue = next((entry for entry in analogues if _covers(entry, key)), None)
        if analogue is not None:
            counterpart, missing = _counterpart(analogue, row, reports, papers, tables)
        own = {"printed": float(row["value"]), "mark": row["mark"], "source": row["source"]}
        measured = NOT_MEASURED if counterpart is None else counterpart._asdict()
        yield dict(zip(KEY, key)) | own | measured | {"missing": missing}


def _verdict(claim: Claim, claims: Iterable[Claim]) -> tuple[str, str]:
    """match, order confirmed, contradicted, not resolvable or not run; and why.

    match: the same experiment, and the printed value lies in the measured interval. Otherwise the printed order of this
    row and each other of its table, metric and measured card is compared with the order of their measured intervals,
    where these do not overlap: all agree, at least one disagrees, or none resolves.
    """
    if not claim["cell"]:
        return "not run", f"needs {claim['missing']}"
    is_same = claim["scale"] == SAME and claim["mark"] != RECALLED
    if is_same and claim["ci_low"] <= claim["printed"] <= claim["ci_high"]:
        return "match", ""
    peers = [other for other in claims if other["cell"] and _are_comparable(claim, other)]
    agree = [
        (claim["printed"] < other["printed"]) == (claim["measured"] < other["measured"])
        for other in peers
        if claim["printed"] != other["printed"]
        and (claim["ci_high"] < other["ci_low"] or other["ci_high"] < claim["ci_low"])
    ]
    about = f"{sum(agree)} of {len(agree)} resolved orders agree, {len(peers)} compared"
    fewest = min(measured["train_seeds"] for measured in (claim, *peers))
    if fewest < TRAINING_SEEDS_FOR_A_METHOD:
        return "not resolvable", f"{about}; {fewest} training seed: it speaks of these checkpoints only"
    if not agree:
        return "not resolvable", about
    return ("order confirmed" if all(agree) else "contradicted"), about


def ordering(verdict: str, printed: tuple[float, float]) -> Literal["confirmed", "contradicted", "not resolvable"]:
    """Whether a verdict on a against b agrees with their printed values, of which the smaller one is better."""
    if verdict not in ("better", "worse"):
        return "not resolvable"
    return "confirmed" if (verdict == "better") == (printed[0] < printed[1]) else "contradicted"


def _are_comparable(one: Claim, two: Claim) -> bool:
    """Printed in one table for one metric and dataset; two cells measured by one card."""
    same_table = one["table"].partition(" (")[0] == two["table"].partition(" (")[0]
    is_alike = all(one[name] == two[name] for name in ("paper", "dataset", "metric", "card"))
    return same_table and is_alike and one["cell"] != two["cell"]


def _counterpart(
    analogue: Row, printed: Row, reports: Path, papers: Path, tables: Tables
) -> tuple[Counterpart | None, str]:
    """The one row of a table that the analogue names, or what is missing for it. tables: those read so far."""
    file = analogue["file"]
    if not file:
        return None, analogue["note"]
    is_of_another_study = file.startswith(f"{FOLDER}/")
    if file not in tables:
        path = (papers.parent if is_of_another_study else reports) / file
        tables[file] = read_rows(path) if path.is_file() else None
    rows = tables[file]
    if rows is None:
        how = "measured beyond this study" if is_of_another_study else "dvc repro"
        return None, f"reports/{file}, which is missing: {how}"
    condition = analogue["row"].format(**{name: printed[name] for name in KEY})
    columns = [part.partition("=")[0] for part in condition.split(";")]
    unknown = [column for column in columns if rows and column not in rows[0]]
    if unknown:
        raise UserError(f"{ANALOGUES}: {file} has no column {', '.join(unknown)}; it has {', '.join(rows[0])}")
    fitting = [(name, row) for name, row in zip(names_of(rows), rows) if fits(row, condition)]
    if not fitting:
        return None, f"a row {file}:{condition}"
    if len(fitting) > 1:
        raise UserError(f"{ANALOGUES}: {len(fitting)} rows of {file}:{condition}: name one of them")
    ((name, row),) = fitting
    value, low, high = (float(row[column] or math.nan) for column in ("value", "ci_low", "ci_high"))
    seeds = int(float(row["train_seeds"])), int(float(row.get("sample_seeds") or 1))
    address = f"{file.removeprefix('tables/').removesuffix('.csv')}:{name}"
    described = analogue["scale"], row["card"], address, row.get("warnings", "")
    return Counterpart(value, low, high, *seeds, *described), ""


def _printed(papers: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows by key."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for row in [row for name in PRINTED_FILES for row in read_rows(papers / name)]:
        key = tuple(row[name] for name in KEY)
        if key in rows:
            raise UserError(f"{papers}: {' / '.join(key)} is printed twice: take one of the lines out")
        rows[key] = row
    return rows


def _covers(analogue: Row, key: tuple[str, ...]) -> bool:
    """Shell patterns; an empty one fits any text."""
    return all(not analogue[name] or fnmatchcase(value, analogue[name]) for name, value in zip(KEY, key))
