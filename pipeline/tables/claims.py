"""The ledger of claims: every value the papers print, beside what was measured here, and whether they agree.

reports/papers/ holds the printed values; a study's analogues.csv (`pipeline.tables.analogues`) names the measured row
to compare each of them with. A measured value keeps the scale it was measured at: it never replaces a printed one.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import pandas as pd

from pipeline.data.csv_files import csv_text, read_rows
from pipeline.errors import UserError
from pipeline.metrics.intervals import ALPHA, TRAINING_SEEDS_FOR_A_METHOD, compared, holm
from pipeline.store.files import write_file
from pipeline.tables.analogues import KEY, SAME, Counterpart, Tables, counterpart, covers, read_analogues
from pipeline.tables.markdown import bounds, markdown_table

RECALLED = "recalled, verify"
LEDGER = "ledger.csv"
LINE_COLUMNS = ["method (NFE)", "metric", "printed", "measured [95 %]", "cell", "verdict"]
PRINTED_FILES = ("fewstep.csv", "guidance.csv")
TEXTS = ("scale", "card", "cell", "baseline", "note", "warnings")  # fields of a Counterpart; empty without one
NOT_MEASURED = dict.fromkeys(Counterpart._fields) | dict.fromkeys(TEXTS, "")

Claim: TypeAlias = dict[str, Any]  # a row of the ledger, with its `sample`, and what is "missing" for a counterpart


class Orders(NamedTuple):
    """Printed orders of a claim and others, tested by measurements; the fields are columns of the ledger."""

    orders_agree: int
    orders_resolved: int
    orders_tested: int


def write_ledger(reports: Path, papers: Path, analogues: Path) -> pd.DataFrame:
    """reports/ledger.csv: each printed key once, always with a verdict. For the paths see `ledger`."""
    claims = ledger(reports, papers, analogues)
    write_file(reports / LEDGER, csv_text(claims))
    return claims


def ledger(reports: Path, papers: Path, analogues: Path) -> pd.DataFrame:
    """A row for each printed value: what was measured, the verdict and its reason.

    reports: of the study; papers: the folder of printed values; analogues: the study's file, which may be missing.
    """
    claims = list(_joined(Tables(reports, papers), papers, analogues))
    for claim in claims:
        orders = _orders(claim, claims)
        claim |= orders._asdict()
        claim["verdict"], claim["why"] = _verdict(claim, orders)
    return pd.DataFrame(claims).drop(columns=["missing", "sample"])


def claims_section(claims: pd.DataFrame) -> str:
    """The ledger's part of the report: how many claims have which verdict, and those that were measured."""
    counts = claims["verdict"].value_counts()
    measured = claims.loc[claims["verdict"] != "not run"]
    rows = [[f"{row['paper']}, {row['table'].partition(' (')[0]}", *line(row)] for row in measured.to_dict("records")]
    about = (
        f"Of {len(claims)} printed values {len(measured)} have a measured counterpart ("
        + ", ".join(f"{verdict}: {count}" for verdict, count in counts.items())
        + f"). {scales(claims)} `ledger.csv` has every printed value with its verdict and the reason."
    )
    return "\n\n".join(["## What the papers print", about, markdown_table(["paper", *LINE_COLUMNS], rows)])


def scales(claims: pd.DataFrame) -> str:
    """A sentence on the scales at which these claims were measured."""
    counts = Counter(scale for scale in claims["scale"] if scale)
    listed = ", ".join(f"{count} as {scale}" for scale, count in counts.items()) or "none"
    text = f"Measured: {listed}."
    if counts.keys() - {SAME}:
        text += " What is not the same experiment has other data, networks or budgets: compare orders, not sizes."
    return text


def line(row: Mapping[Hashable, Any]) -> list[str]:
    """A row of the ledger for people, under `LINE_COLUMNS`."""
    measured = f"{row['measured']:.4g}{bounds(row['ci_low'], row['ci_high'], 3)}" if pd.notna(row["measured"]) else ""
    method = f"{row['method']} ({row['nfe']})" if row["nfe"] else row["method"]
    cell = f"{row['cell']} less {row['baseline']}" if row["baseline"] else row["cell"]
    agree, resolved, tested = (row[name] for name in Orders._fields)
    orders = f" ({agree} of {resolved} resolved orders agree, {tested} tested)" if tested else ""
    return [method, row["metric"], f"{row['printed']:g}", measured, cell, row["verdict"] + orders]


def _joined(tables: Tables, papers: Path, analogues: Path) -> Iterator[Claim]:
    """Every printed value with the measured row that the study names for it, if any."""
    printed, lines = _printed(papers), read_analogues(analogues)
    for analogue in lines:
        if not any(covers(analogue, row) for row in printed):
            pattern = " / ".join(analogue[name] or "*" for name in KEY)
            raise UserError(f"{analogues}: no printed value of {pattern}: see the files in {papers}")
    for row in printed:
        found, missing = None, f"a training on {row['dataset']}"
        analogue = next((entry for entry in lines if covers(entry, row)), None)
        if analogue is not None:
            found, missing = counterpart(analogue, row, tables)
        own = {"printed": float(row["value"]), "mark": row["mark"], "source": row["source"]}
        measured = NOT_MEASURED if found is None else found._asdict()
        yield {name: row[name] for name in KEY} | own | measured | {"missing": missing}


def _verdict(claim: Claim, orders: Orders) -> tuple[str, str]:
    """match, order confirmed, order mostly confirmed, contradicted, not resolvable or not run; and why.

    match: the same experiment, and the printed value lies in the measured interval. Otherwise by the orders that are
    resolved (see `_orders`): all agree, more agree than disagree, or more disagree. Where several orders were tested, a
    single one that disagrees contradicts nothing.
    """
    if not claim["cell"]:
        return "not run", f"needs {claim['missing']}"
    is_same = claim["scale"] == SAME and claim["mark"] != RECALLED
    if is_same and claim["ci_low"] <= claim["printed"] <= claim["ci_high"]:
        return "match", ""
    agree, resolved, tested = orders
    if claim["train_seeds"] < TRAINING_SEEDS_FOR_A_METHOD:
        return "not resolvable", f"{claim['train_seeds']} training seed(s): of these checkpoints only"
    disagree, about = resolved - agree, f"{agree} of {resolved} resolved orders agree, {tested} tested (Holm)"
    if agree > disagree:
        return ("order mostly confirmed" if disagree else "order confirmed"), about
    is_contradicted = disagree > agree and (disagree > 1 or tested == 1)
    return ("contradicted" if is_contradicted else "not resolvable"), about


def _orders(claim: Claim, claims: Iterable[Claim]) -> Orders:
    """Of this claim and the others in its table, measured with the same card and at least three training seeds each.

    An order is resolved where the difference of the two cells is not zero: by `compared`, paired over training seeds
    where both cells have the same ones, else by Welch's test; with Holm's correction over all orders of the claim, so
    that of claims whose cells are all equal at most 5 % resolve any.
    """
    agreements, p_values = [], []
    for other in claims if _has_method(claim) else ():
        printed = _printed_pair(claim, other) if _has_method(other) and _are_comparable(claim, other) else (0.0, 0.0)
        if printed[0] != printed[1]:
            test = compared(claim["sample"], other["sample"])
            agreements.append((printed[0] < printed[1]) == (test.difference < 0))
            p_values.append(test.p)
    resolved = [agrees for agrees, p in zip(agreements, holm(p_values)) if p < ALPHA]
    return Orders(sum(resolved), len(resolved), len(agreements))


def _has_method(claim: Claim) -> bool:
    """Whether enough trainings were measured for a verdict on the method."""
    return bool(claim["cell"]) and claim["train_seeds"] >= TRAINING_SEEDS_FOR_A_METHOD


def _are_comparable(one: Claim, two: Claim) -> bool:
    """Printed in one table for one metric and dataset, for models with classes or for models without; one card."""
    same_table = one["table"].partition(" (")[0] == two["table"].partition(" (")[0]
    alike = all(one[name] == two[name] for name in ("paper", "dataset", "conditional", "metric", "card"))
    return same_table and alike and one["cell"] != two["cell"]


def _printed_pair(one: Claim, two: Claim) -> tuple[float, float]:
    """Printed numbers of which the order can be compared: equal ones if there are none.

    Two values, or two differences from one baseline, as printed; a difference and its baseline: the difference and 0.
    """
    if one["baseline"] == two["baseline"]:
        return one["printed"], two["printed"]
    if one["baseline"] == two["cell"]:
        return one["printed"], 0.0
    if two["baseline"] == one["cell"]:
        return 0.0, two["printed"]
    return 0.0, 0.0


def ordering(verdict: str, printed: tuple[float, float]) -> Literal["confirmed", "contradicted", "not resolvable"]:
    """Whether a verdict on a against b agrees with their printed values, of which the smaller one is better."""
    if verdict not in ("better", "worse"):
        return "not resolvable"
    return "confirmed" if (verdict == "better") == (printed[0] < printed[1]) else "contradicted"


def _printed(papers: Path) -> list[dict[str, str]]:
    rows = [row for name in PRINTED_FILES for row in read_rows(papers / name)]
    (key, count), *_ = Counter(tuple(row[name] for name in KEY) for row in rows).most_common(1)
    if count > 1:
        raise UserError(f"{papers}: {' / '.join(key)} is printed twice: take one of the lines out")
    return rows
