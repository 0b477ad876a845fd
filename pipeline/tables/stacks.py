"""Tables of stacks: each member's metrics beside the paper's values, and the paper's orderings tested."""

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline.config.build import pick
from pipeline.config.study import Study
from pipeline.console import say
from pipeline.dag.graph import STAGES
from pipeline.dag.lineage import provenance
from pipeline.data.artifacts import read_artifact
from pipeline.data.csv_files import csv_text
from pipeline.metrics.card import METRICS_FILE
from pipeline.metrics.intervals import ALPHA, holm
from pipeline.store.files import write_file
from pipeline.tables.aggregate import Arm, Difference, differences, metric_columns, repetition
from pipeline.tables.claims import ordering

PRINTED = "frechet_2d"  # the metric of SIDDM's table 1; it cannot see modes, so it is never the only one
ORDERED_BY = (PRINTED, "hq", "mode_kl", "energy")  # metrics by which the printed orderings are tested
COLUMNS = [
    "method", "network", "steps", "n_modes", "metric", "value", "ci_low", "ci_high", "real_vs_real", "train_seeds",
    "sample_seeds", "iterations", "batch", "paper_value", "card", "warnings", "by_seed",
]  # fmt: skip
ORDERINGS = [
    "a", "b", "steps_a", "steps_b", "metric", "paper_a", "paper_b", "a_measured", "b_measured", "difference", "ci_low",
    "ci_high", "p_holm", "ordering", "scope", "warnings",
]  # fmt: skip


class Member(NamedTuple):
    """A method at a number of steps."""

    arm: Arm
    method: str  # the member's name without its steps
    steps: int


def write_stack_tables(study: Study, name: str, tables: Path) -> None:
    """NAME.csv, and NAME-orderings.csv, with rows where a file of reports/papers/ has the printed values."""
    members = list(members_of(study, name))
    warning = members[0].arm.repetitions[0].provenance.warning  # one artifact has all members
    if warning:
        say(f"{name} is {warning}")
    printed = _printed(study, name)
    values = [row | {"warnings": warning} for row in _values(study, name, members, printed)]
    write_file(tables / f"{name}.csv", csv_text(pd.DataFrame(values, columns=COLUMNS)))
    orderings = [row | {"warnings": warning} for row in _orderings(members, printed)]
    write_file(tables / f"{name}-orderings.csv", csv_text(pd.DataFrame(orderings, columns=ORDERINGS)))


def members_of(study: Study, name: str) -> Iterator[Member]:
    """In the order of params.yaml."""
    entry = pick(study.stacks, name, "stack")
    call = STAGES["evaluate-stack"].call(study, name)
    artifact, origin = read_artifact(call.out), provenance(study, call)
    content = json.loads((artifact.path / METRICS_FILE).read_text())
    for member in entry.members:
        by_seed = zip(artifact.manifest.seeds["train"], content[member])
        arm = Arm(member, "none", tuple(repetition(member, seed, values, origin) for seed, values in by_seed))
        nfe = int(arm.repetitions[0].counts["nfe"])
        yield Member(arm, member.removesuffix(f"-{nfe}"), nfe)


Printed = dict[tuple[str, int], float]


def _values(study: Study, name: str, members: list[Member], printed: Printed) -> Iterator[dict[str, Any]]:
    entry = study.stacks[name]
    facts = read_artifact(study.out / "evaluate-stack" / name).manifest.facts
    described = {
        "network": entry.model.get("net", "mixture-mlp"),
        "n_modes": study.datasets[entry.dataset].options.get("side", 5) ** 2,
        "iterations": facts["steps"],
        "batch": facts["batch"],
    }
    for arm, method, steps in members:
        for card, metric in arm.repetitions[0].metrics.items():
            paper = printed.get((method, steps)) if metric["metric"] == PRINTED else None
            yield described | metric_columns(arm, card) | {"method": method, "steps": steps, "paper_value": paper}


def _orderings(members: list[Member], printed: Printed) -> Iterator[dict[str, Any]]:
    """Whether the measured order agrees: every printed pair at equal steps, and the plain GAN with every other.

    p_holm: of no difference, corrected for all pairs of one metric (Holm); an order is resolved below 5 %.
    """
    pairs = list(_compared_pairs(members, printed))
    for metric in ORDERED_BY:
        of_metric = [(pair, by_metric[metric]) for pair, by_metric in pairs]
        for (pair, found), p in zip(of_metric, holm([found.p_value for _, found in of_metric])):
            verdict = found.verdict if p < ALPHA else "not resolvable"
            described = {"p_holm": p, "ordering": ordering(verdict, (pair["paper_a"], pair["paper_b"]))}
            measured = {"a_measured": found.value_a, "b_measured": found.value_b}
            yield pair | measured | found._asdict() | described


def _compared_pairs(members: list[Member], printed: Printed) -> Iterator[tuple[dict[str, Any], dict[str, Difference]]]:
    """Each pair's columns, and its differences by metric."""
    compared = [member for member in members if (member.method, member.steps) in printed]
    for a, b in combinations(compared, 2):
        if a.steps != b.steps and 1 not in (a.steps, b.steps):
            continue
        papers = printed[a.method, a.steps], printed[b.method, b.steps]
        pair = {"a": a.method, "b": b.method, "steps_a": a.steps, "steps_b": b.steps}
        pair |= {"paper_a": papers[0], "paper_b": papers[1]}
        yield pair, {difference.metric: difference for difference in differences(a.arm, b.arm)}


def _printed(study: Study, name: str) -> Printed:
    """By method and steps, from the file of reports/papers named as the stack, or as its name up to some dash."""
    files = (study.root / "reports" / "papers").glob("*.csv")
    file = next((file for file in files if f"{name}-".startswith(f"{file.stem}-")), None)
    rows = [] if file is None else pd.read_csv(file).to_dict("records")
    return {(row["method"], row["steps"]): row["value"] for row in rows}
