"""Tables of stacks: every member's metrics beside the paper's, what of the paper's orderings holds, and densities."""

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.build import pick
from pipeline.config.study import Study
from pipeline.console import say
from pipeline.dag.graph import STAGES
from pipeline.dag.lineage import provenance
from pipeline.data.artifacts import read_artifact
from pipeline.data.csv_files import write_csv
from pipeline.metrics.card import METRICS_FILE
from pipeline.metrics.intervals import Verdict
from pipeline.tables.aggregate import Arm, differences, repetition, summarise

PRINTED = "frechet_2d"  # the metric of SIDDM's table 1; blind to modes, so never alone
JUDGED = (PRINTED, "hq", "mode_kl", "energy")  # by which the printed orderings are asked
SAMPLES_FILE = "samples.npy"
SHOWN = ("hq", "modes", "mode_kl", "energy", "frechet_2d")
BINS = 150  # of a density panel, per side
ORDERINGS = [
    "a", "b", "steps_a", "steps_b", "metric", "paper_a", "paper_b", "a_measured", "b_measured", "difference", "ci_low",
    "ci_high", "ordering", "scope", "warnings",
]  # fmt: skip


class Cell(NamedTuple):
    """One member: a method at a number of steps."""

    arm: Arm
    method: str  # the member's name without its steps
    steps: int


def write_stack_tables(study: Study, name: str, tables: Path) -> None:
    """NAME.csv, and NAME-orderings.csv where a file of reports/papers/ says what was printed."""
    tables.mkdir(parents=True, exist_ok=True)
    warning = provenance(study, STAGES["evaluate-stack"].call(study, name)).warning
    if warning:
        say(f"{name} is {warning}")
    write_csv(pd.DataFrame(list(_values(study, name))).assign(warnings=warning), tables / f"{name}.csv")
    orderings = pd.DataFrame(list(_orderings(study, name)), columns=ORDERINGS).assign(warnings=warning)
    write_csv(orderings, tables / f"{name}-orderings.csv")


def cells(study: Study, name: str) -> list[Cell]:
    """In the order of params.yaml."""
    entry = pick(study.stacks, name, "stack")
    call = STAGES["evaluate-stack"].call(study, name)
    artifact, origin = read_artifact(call.out), provenance(study, call)
    content = json.loads((artifact.path / METRICS_FILE).read_text())
    found = []
    for member in entry.members:
        by_seed = zip(artifact.manifest.seeds["train"], content[member])
        arm = Arm(member, "none", tuple(repetition(member, seed, values, origin) for seed, values in by_seed))
        nfe = int(arm.repetitions[0].counts["nfe"])
        found.append(Cell(arm, member.removesuffix(f"-{nfe}"), nfe))
    return found


def _values(study: Study, name: str) -> Iterator[dict[str, Any]]:
    entry, printed = study.stacks[name], _printed(study, name)
    network = entry.model.get("net", "mixture-mlp")
    modes = study.datasets[entry.dataset].options.get("side", 5) ** 2
    facts = read_artifact(study.out / "evaluate-stack" / name).manifest.facts
    for cell in cells(study, name):
        for card, row in cell.arm.repetitions[0].metrics.items():
            summary = summarise(cell.arm, card)
            yield {
                "method": cell.method,
                "network": network,
                "steps": cell.steps,
                "n_modes": modes,
                "metric": row["metric"],
                "value": summary.interval.mean,
                "ci_low": summary.interval.low,
                "ci_high": summary.interval.high,
                "real_vs_real": row["real_vs_real"],
                "train_seeds": summary.train_seeds,
                "sample_seeds": summary.sample_seeds,
                "iterations": facts["steps"],
                "batch": facts["batch"],
                "paper_value": printed.get((cell.method, cell.steps)) if row["metric"] == PRINTED else None,
                "card": row["card"]["text"],
            }


def _orderings(study: Study, name: str) -> Iterator[dict[str, Any]]:
    """Every printed pair at equal steps, and the plain GAN with every other: does the measured order agree?"""
    printed = _printed(study, name)
    known = [cell for cell in cells(study, name) if (cell.method, cell.steps) in printed]
    for a, b in combinations(known, 2):
        if a.steps != b.steps and 1 not in (a.steps, b.steps):
            continue
        papers = printed[a.method, a.steps], printed[b.method, b.steps]
        measured = {difference.metric: difference for difference in differences(a.arm, b.arm)}
        for metric in JUDGED:
            found = measured[metric]
            yield {
                "a": a.method,
                "b": b.method,
                "steps_a": a.steps,
                "steps_b": b.steps,
                "metric": metric,
                "paper_a": papers[0],
                "paper_b": papers[1],
                "a_measured": found.a,
                "b_measured": found.b,
                "difference": found.comparison.difference,
                "ci_low": found.comparison.low,
                "ci_high": found.comparison.high,
                "ordering": judged(found.comparison.verdict, papers),
                "scope": found.scope,
            }


def judged(verdict: Verdict, printed: tuple[float, float]) -> Literal["confirmed", "contradicted", "not resolvable"]:
    """Whether the verdict on a against b agrees with the printed values, of which the smaller one is better."""
    if verdict not in ("better", "worse"):
        return "not resolvable"
    return "confirmed" if (verdict == "better") == (printed[0] < printed[1]) else "contradicted"


def _printed(study: Study, name: str) -> dict[tuple[str, int], float]:
    """The paper's values by method and steps: of the file that the stack's name is, or begins with before a dash."""
    files = (study.root / "reports" / "papers").glob("*.csv")
    file = next((file for file in files if f"{name}-".startswith(f"{file.stem}-")), None)
    rows = [] if file is None else pd.read_csv(file).to_dict("records")
    return {(row["method"], row["steps"]): row["value"] for row in rows}


def densities(study: Study, name: str) -> Figure:
    """Histograms of each member's samples, after SIDDM's figure 3: a row per method, a column per number of steps."""
    samples = np.load(study.out / "evaluate-stack" / name / SAMPLES_FILE)
    found = cells(study, name)
    methods = list(dict.fromkeys(cell.method for cell in found))
    steps = sorted({cell.steps for cell in found})
    edge = float(np.abs(samples).max(axis=(1, 2)).min()) * 1.1
    figure = Figure(figsize=(1.6 * len(steps), 1.6 * len(methods)), layout="constrained")
    panels = figure.subplots(len(methods), len(steps), squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for cell, points in zip(found, samples):
        axes = panels[methods.index(cell.method), steps.index(cell.steps)]
        counts = np.histogram2d(*points.T, bins=BINS, range=[[-edge, edge]] * 2)[0]
        axes.imshow(np.sqrt(counts.T), origin="lower", cmap="magma")
        axes.set_title(f"{cell.method}, {cell.steps} step{'s' * (cell.steps > 1)}", fontsize=6)
    return figure
