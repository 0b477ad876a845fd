"""Measured values as tables: one row per value, each with its card, interval and real-vs-real value."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.study import Study
from pipeline.console import say
from pipeline.data.csv_files import write_csv
from pipeline.tables.aggregate import Arm, differences, entries_on, gather, summarise

COLUMNS = [
    "run", "guidance", "metric", "value", "ci_low", "ci_high", "sampling_spread", "train_seeds", "sample_seeds",
    "n_generated", "n_real", "real_vs_real", "nfe", "card", "warnings",
]  # fmt: skip
COMPARED = [
    "run", "guidance", "metric", "unguided", "guided", "difference", "ci_low", "ci_high", "verdict", "scope",
    "train_seeds", "sample_seeds", "card", "warnings",
]  # fmt: skip


def write_tables(study: Study, dataset: str, folder: Path, entries: Sequence[str] = ()) -> None:
    """<dataset>.csv and <dataset>-guidance.csv; of these entries alone, if there are any."""
    arms = gather(study, entries or entries_on(study, dataset))
    for arm in arms:
        for warning in sorted(arm.warnings):
            say(f"{dataset}: {arm.name} is {warning}")
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(pd.DataFrame([row for arm in arms for row in _rows(arm)], columns=COLUMNS), folder / f"{dataset}.csv")
    write_csv(pd.DataFrame(list(_comparisons(arms)), columns=COMPARED), folder / f"{dataset}-guidance.csv")


def _rows(arm: Arm) -> Iterator[dict[str, Any]]:
    counts = {
        name: sum(found.counts[name] for found in arm.repetitions) / len(arm.repetitions)
        for name in arm.repetitions[0].counts
    }
    for id, found in arm.repetitions[0].metrics.items():
        (value, low, high, _), spread, train_seeds, sample_seeds = summarise(arm, id)
        warned = {warning for repetition in arm.repetitions for warning in repetition.metrics[id]["warnings"]}
        yield {
            "run": arm.run,
            "guidance": arm.guidance,
            "metric": found["metric"],
            "value": value,
            "ci_low": low,
            "ci_high": high,
            "sampling_spread": spread,
            "train_seeds": train_seeds,
            "sample_seeds": sample_seeds,
            "n_generated": found["card"]["n_generated"],
            "n_real": found["card"]["n_real"],
            "real_vs_real": found["real_vs_real"],
            "nfe": counts["nfe"],
            "card": found["card"]["text"],
            "warnings": "; ".join(sorted(warned | arm.warnings)),
        }
    seeds = {"train_seeds": len(arm.repetitions), "sample_seeds": len(arm.repetitions[0].sets)}
    for metric, value in counts.items():
        described = {"run": arm.run, "guidance": arm.guidance, "metric": metric, "nfe": counts["nfe"]}
        exact = {"value": value, "ci_low": value, "ci_high": value, "card": "counted"}
        yield described | exact | seeds | {"warnings": "; ".join(sorted(arm.warnings))}


def _comparisons(arms: list[Arm]) -> Iterator[dict[str, Any]]:
    """Guided less unguided, seed by seed; only values whose cards agree."""
    unguided = {found.entry: arm for arm in arms if arm.guidance == "none" for found in arm.repetitions}
    for arm in arms:
        if arm.guidance == "none" or arm.run not in unguided:
            continue
        other = unguided[arm.run]
        for found in differences(arm, other):
            difference, low, high, verdict, _ = found.comparison
            yield {
                "run": arm.run,
                "guidance": arm.guidance,
                "metric": found.metric,
                "unguided": found.b,
                "guided": found.a,
                "difference": difference,
                "ci_low": low,
                "ci_high": high,
                "verdict": verdict,
                "scope": found.scope,
                "train_seeds": found.train_seeds,
                "sample_seeds": found.sample_seeds,
                "card": found.card["text"],
                "warnings": "; ".join(sorted(arm.warnings | other.warnings)),
            }
