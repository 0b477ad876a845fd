"""The ledger of claims: every value the papers print, beside what was measured here, and whether they agree.

reports/papers/ holds the printed values, and in analogues.csv which measured row answers which of them. A measured
value keeps the scale it was measured at: it is never put in place of a printed one.
"""

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline.data.csv_files import write_csv
from pipeline.errors import UserError
from pipeline.metrics.intervals import TRAINING_SEEDS_FOR_A_METHOD
from pipeline.tables.addresses import fits, names_of
from pipeline.tables.markdown import bounds, markdown_table
from pipeline.tables.measured import FOLDER

KEY = ("paper", "table", "dataset", "conditional", "method", "nfe", "metric")
RECALLED = "recalled, verify"
SAME = "same experiment"  # else: a small-scale analogue
LEDGER = "ledger.csv"
SHOWN = ["method (NFE)", "metric", "printed", "measured [95 %]", "cell", "verdict"]
PRINTED = ("fewstep.csv", "guidance.csv")
ANALOGUES = "analogues.csv"


class Found(NamedTuple):
    """A measured row that answers a claim."""

    value: float
    low: float  # of the 95 % interval
    high: float
    train_seeds: int
    sample_seeds: int
    card: str
    scale: str
    where: str  # its address
    warnings: str


class Claim(NamedTuple):
    """A printed value, with what was measured."""

    key: tuple[str, ...]
    printed: float
    mark: str
    source: str
    found: Found | None
    note: str  # why nothing was measured, and what that would need


def write_ledger(reports: Path, papers: Path) -> pd.DataFrame:
    """reports/ledger.csv: each printed key once, never without a verdict. papers: the folder of printed values."""
    ledger = judged(reports, papers)
    write_csv(ledger, reports / LEDGER)
    return ledger


def judged(reports: Path, papers: Path) -> pd.DataFrame:
    """A row for each printed value: what was measured, the verdict and why."""
    claims = list(join(reports, papers))
    return pd.DataFrame([_row(claim, *verdict(claim, claims)) for claim in claims])


def claims_section(ledger: pd.DataFrame) -> str:
    """The ledger's part of the report: how many claims have which verdict, and those that were measured."""
    counts = ledger["verdict"].value_counts()
    measured = ledger.loc[ledger["verdict"] != "not run"]
    rows = [[f"{row['paper']}, {row['table'].partition(' (')[0]}", *shown(row)] for row in measured.to_dict("records")]
    about = (
        f"Of {len(ledger)} printed values {len(measured)} have a measured counterpart ("
        + ", ".join(f"{verdict}: {count}" for verdict, count in counts.items())
        + "). All are small-scale analogues, on other data, networks and budgets: their orders may be compared, their "
        "sizes may not. `ledger.csv` has every printed value, and why it has its verdict."
    )
    return "\n\n".join(["## What the papers print", about, markdown_table(["paper", *SHOWN], rows)])


def shown(row: Mapping[Hashable, Any]) -> list[str]:
    """A row of the ledger for people, under `SHOWN`."""
    measured = f"{row['measured']:.4g}{bounds(row['ci_low'], row['ci_high'], 3)}" if pd.notna(row["measured"]) else ""
    method = f"{row['method']} ({row['nfe']})" if row["nfe"] else row["method"]
    return [method, row["metric"], f"{row['printed']:g}", measured, row["cell"], row["verdict"]]


def join(reports: Path, papers: Path) -> Iterator[Claim]:
    """Every printed value with the measured row that `analogues.csv` names for it, if any."""
    printed = _printed(papers)
    analogues = _texts(papers / ANALOGUES).to_dict("records")
    keys = [tuple(row[name] for name in KEY) for row in printed]
    for analogue in analogues:
        if not any(_answers(analogue, key) for key in keys):
            raise UserError(f"{ANALOGUES}: no printed value of {_pattern(analogue)}: see the other files beside it")
    tables: dict[str, pd.DataFrame | None] = {}
    for row, key in zip(printed, keys):
        analogue = next((entry for entry in analogues if _answers(entry, key)), None)
        found, note = (
            (None, f"a training on {row['dataset']}")
            if analogue is None
            else _measured(analogue, key, reports, papers, tables)
        )
        yield Claim(key, float(row["value"]), row["mark"], row["source"], found, note)


def verdict(claim: Claim, claims: Iterable[Claim]) -> tuple[str, str]:
    """match, order confirmed, contradicted, not resolvable or not run; and why.

    match: the same experiment, and the printed value lies in the measured interval. Else the printed orders of this
    row and others of its table, metric and measured card are held against intervals that do not overlap: all agree,
    one disagrees, or none resolves.
    """
    found = claim.found
    if found is None:
        return "not run", f"needs {claim.note}"
    if found.scale == SAME and claim.mark != RECALLED and found.low <= claim.printed <= found.high:
        return "match", ""
    peers = [other for other in claims if other.key != claim.key and _comparable(claim, other)]
    agreeing, resolved = 0, 0
    for other in peers:
        assert other.found is not None
        if claim.printed == other.printed or not _apart(found, other.found):
            continue
        resolved += 1
        agreeing += (claim.printed < other.printed) == (found.value < other.found.value)
    about = f"{agreeing} of {resolved} resolved orders agree, {len(peers)} compared"
    fewest = min([found.train_seeds, *(other.found.train_seeds for other in peers if other.found is not None)])
    if fewest < TRAINING_SEEDS_FOR_A_METHOD:
        return "not resolvable", f"{about}; {fewest} training seed: it speaks of these checkpoints only"
    if resolved == 0:
        return "not resolvable", about
    return ("order confirmed" if agreeing == resolved else "contradicted"), about


def _comparable(claim: Claim, other: Claim) -> bool:
    """Printed in one table for one metric and dataset, and measured by one card."""
    same_cell = all(claim.key[KEY.index(name)] == other.key[KEY.index(name)] for name in ("paper", "dataset", "metric"))
    same_table = claim.key[1].partition(" (")[0] == other.key[1].partition(" (")[0]
    return (
        same_cell
        and same_table
        and claim.found is not None
        and other.found is not None
        and claim.found.card == other.found.card
        and claim.found.where != other.found.where
    )


def _apart(one: Found, other: Found) -> bool:
    """Intervals do not overlap: stricter than a test of the difference, and right for unpaired values."""
    return one.high < other.low or other.high < one.low


def _row(claim: Claim, said: str, why: str) -> dict[str, Any]:
    found = claim.found
    return {
        **dict(zip(KEY, claim.key)),
        "printed": claim.printed,
        "mark": claim.mark,
        "source": claim.source,
        "measured": None if found is None else found.value,
        "ci_low": None if found is None else found.low,
        "ci_high": None if found is None else found.high,
        "train_seeds": None if found is None else found.train_seeds,
        "sample_seeds": None if found is None else found.sample_seeds,
        "scale": "" if found is None else found.scale,
        "card": "" if found is None else found.card,
        "cell": "" if found is None else found.where,
        "warnings": "" if found is None else found.warnings,
        "verdict": said,
        "why": why,
    }


def _measured(
    analogue: dict[str, str], key: tuple[str, ...], reports: Path, papers: Path, tables: dict[str, pd.DataFrame | None]
) -> tuple[Found | None, str]:
    """The one row of a table that the analogue names, or why there is none."""
    file = analogue["file"]
    if not file:
        return None, analogue["note"]
    is_beyond = file.startswith(f"{FOLDER}/")
    if file not in tables:
        path = (papers.parent if is_beyond else reports) / file
        tables[file] = _texts(path) if path.is_file() else None
    table = tables[file]
    if table is None:
        return None, f"reports/{file}, which is missing: {'measured beyond this study' if is_beyond else 'dvc repro'}"
    wanted = analogue["row"].format(**dict(zip(KEY, key)))
    unknown = [column for part in wanted.split(";") if (column := part.partition("=")[0]) not in table.columns]
    if unknown:
        raise UserError(f"{ANALOGUES}: {file} has no column {', '.join(unknown)}; it has {', '.join(table.columns)}")
    rows = table.to_dict("records")
    found = [(name, row) for name, row in zip(names_of(rows), rows) if fits(row, wanted)]
    where = f"{file}:{wanted}"
    if len(found) == 0:
        return None, f"a row {where}"
    if len(found) > 1:
        raise UserError(f"{ANALOGUES}: {len(found)} rows of {where}: name one of them")
    ((name, row),) = found
    low, high = (float(row[name] or math.nan) for name in ("ci_low", "ci_high"))
    seeds = int(float(row["train_seeds"])), int(float(row.get("sample_seeds") or 1))
    where = f"{file.removeprefix('tables/').removesuffix('.csv')}:{name}"
    told = row["card"], analogue["scale"], where, row.get("warnings", "")
    return Found(float(row["value"]), low, high, *seeds, *told), ""


def _printed(papers: Path) -> list[dict[str, str]]:
    rows = [row for name in PRINTED for row in _texts(papers / name).to_dict("records")]
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        key = tuple(row[name] for name in KEY)
        if key in seen:
            raise UserError(f"{papers}: {' / '.join(key)} is printed twice: take one of the lines out")
        seen.add(key)
    return rows


def _answers(analogue: dict[str, str], key: tuple[str, ...]) -> bool:
    """Patterns as in a shell; an empty one fits anything."""
    return all(not analogue[name] or fnmatchcase(value, analogue[name]) for name, value in zip(KEY, key))


def _pattern(analogue: dict[str, str]) -> str:
    return " / ".join(analogue[name] or "*" for name in KEY)


def _texts(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str, keep_default_na=False)
