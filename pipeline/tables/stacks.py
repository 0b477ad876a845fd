"""Tables of stacks: every member's metrics beside the paper's, what of the paper's orderings holds, and densities."""

import json
from collections.abc import Iterator, Sequence
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
from pipeline.metrics.card import METRICS, METRICS_FILE, Direction
from pipeline.metrics.intervals import interval, paired, scope

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

    member: str
    method: str  # the member's name without its steps
    steps: int
    metrics: dict[str, dict[str, Any]]  # by name; values are [training seeds][sampling seeds]


def write_stack_tables(study: Study, name: str, tables: Path) -> None:
    """NAME.csv, and NAME-orderings.csv where a file of reports/papers/ says what was printed."""
    tables.mkdir(parents=True, exist_ok=True)
    warning = provenance(study, STAGES["appraise"](study, name)).warning
    if warning:
        say(f"{name} is {warning}")
    write_csv(pd.DataFrame(list(_values(study, name))).assign(warnings=warning), tables / f"{name}.csv")
    orderings = pd.DataFrame(list(_orderings(study, name)), columns=ORDERINGS).assign(warnings=warning)
    write_csv(orderings, tables / f"{name}-orderings.csv")


def cells(study: Study, name: str) -> list[Cell]:
    """In the order of params.yaml."""
    entry = pick(study.stacks, name, "stack")
    content = json.loads((read_artifact(study.folder / "out" / "appraise" / name).path / METRICS_FILE).read_text())
    found = []
    for member in entry.members:
        nfe = int(content[member]["counts"]["nfe"])
        metrics = {row["metric"]: row for row in content[member]["metrics"]}
        found.append(Cell(member, member.removesuffix(f"-{nfe}"), nfe, metrics))
    return found


def _values(study: Study, name: str) -> Iterator[dict[str, Any]]:
    """Intervals over training seeds where there are several, else over sampling seeds."""
    entry, printed = study.stacks[name], _printed(study, name)
    network = entry.model.get("net", "mixture-mlp")
    modes = study.datasets[entry.dataset].options.get("side", 5) ** 2
    facts = read_artifact(study.folder / "out" / "appraise" / name).manifest.facts
    for cell in cells(study, name):
        for metric, row in cell.metrics.items():
            found = interval(_per_seed(row["values"]))
            yield {
                "method": cell.method,
                "network": network,
                "steps": cell.steps,
                "n_modes": modes,
                "metric": metric,
                "value": found.mean,
                "ci_low": found.low,
                "ci_high": found.high,
                "floor": row["floor"],
                "train_seeds": len(row["values"]),
                "sample_seeds": len(row["values"][0]),
                "iterations": facts["steps"],
                "batch": facts["batch"],
                "paper_value": printed.get((cell.method, cell.steps)) if metric == PRINTED else None,
                "card": row["card"]["text"],
            }


def _orderings(study: Study, name: str) -> Iterator[dict[str, Any]]:
    """Of every printed pair at equal steps, and of the plain GAN with every other: does what was measured agree?"""
    printed = _printed(study, name)
    known = [cell for cell in cells(study, name) if (cell.method, cell.steps) in printed]
    for a, b in combinations(known, 2):
        if a.steps != b.steps and 1 not in (a.steps, b.steps):
            continue
        paper_a, paper_b = (printed[cell.method, cell.steps] for cell in (a, b))
        for metric in JUDGED:
            values = [cell.metrics[metric]["values"] for cell in (a, b)]
            per_seed = [_per_seed(found) for found in values]
            better = METRICS[metric].better
            compared = paired(per_seed[0], per_seed[1], better)
            yield {
                "a": a.method,
                "b": b.method,
                "steps_a": a.steps,
                "steps_b": b.steps,
                "metric": metric,
                "paper_a": paper_a,
                "paper_b": paper_b,
                "a_measured": float(np.mean(values[0])),
                "b_measured": float(np.mean(values[1])),
                "difference": compared.difference,
                "ci_low": compared.low,
                "ci_high": compared.high,
                "ordering": judged(per_seed[0], per_seed[1], better, (paper_a, paper_b)),
                "scope": scope(len(values[0])),
            }


def judged(
    a: Sequence[float], b: Sequence[float], better: Direction | None, printed: tuple[float, float]
) -> Literal["confirmed", "contradicted", "not resolvable"]:
    """Whether a against b, seed by seed, falls out as printed, where less is better."""
    verdict = paired(a, b, better).verdict
    if verdict not in ("better", "worse"):
        return "not resolvable"
    return "confirmed" if (verdict == "better") == (printed[0] < printed[1]) else "contradicted"


def _per_seed(values: list[list[float]]) -> list[float]:
    """Means per training seed; with one of them, its sampling seeds."""
    return [float(np.mean(found)) for found in values] if len(values) > 1 else values[0]


def _printed(study: Study, name: str) -> dict[tuple[str, int], float]:
    """The paper's values by method and steps: of the file that the stack's name is, or begins with before a dash."""
    files = (study.root / "reports" / "papers").glob("*.csv")
    file = next((file for file in files if f"{name}-".startswith(f"{file.stem}-")), None)
    rows = [] if file is None else pd.read_csv(file).to_dict("records")
    return {(row["method"], row["steps"]): row["value"] for row in rows}


def densities(study: Study, name: str) -> Figure:
    """Histograms of each member's samples, after SIDDM's figure 3: a row per method, a column per number of steps."""
    samples = np.load(study.folder / "out" / "appraise" / name / SAMPLES_FILE)
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
