"""Measured values as tables: one row per value, each with its card, interval and real-vs-real value."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.study import Study
from pipeline.console import say
from pipeline.data.csv_files import csv_text
from pipeline.store.files import write_file
from pipeline.tables.aggregate import Arm, differences, entries_on, gather, metric_columns

COLUMNS = [
    "run", "guidance", "metric", "value", "ci_low", "ci_high", "sampling_spread", "train_seeds", "sample_seeds",
    "n_generated", "n_real", "real_vs_real", "nfe", "card", "warnings", "by_seed",
]  # fmt: skip
COMPARED = [
    "run", "guidance", "metric", "unguided", "guided", "difference", "ci_low", "ci_high", "verdict", "scope",
    "train_seeds", "sample_seeds", "card", "warnings",
]  # fmt: skip


def write_tables(study: Study, dataset: str, folder: Path, entries: Sequence[str] = ()) -> None:
    """<dataset>.csv and <dataset>-guidance.csv, of all entries on the dataset or of these."""
    arms = gather(study, entries or entries_on(study, dataset))
    for arm in arms:
        for warning in sorted(arm.warnings):
            say(f"{dataset}: {arm.name} is {warning}")
    values = pd.DataFrame([row for arm in arms for row in _rows(arm)], columns=COLUMNS)
    compared = pd.DataFrame(list(_comparisons(arms)), columns=COMPARED)
    write_file(folder / f"{dataset}.csv", csv_text(values))
    write_file(folder / f"{dataset}-guidance.csv", csv_text(compared))


def _rows(arm: Arm) -> Iterator[dict[str, Any]]:
    counts = {
        name: sum(one.counts[name] for one in arm.repetitions) / len(arm.repetitions)
        for name in arm.repetitions[0].counts
    }
    described = {"run": arm.run, "guidance": arm.guidance, "nfe": counts["nfe"]}
    for id in arm.repetitions[0].metrics:
        warnings = {warning for one in arm.repetitions for warning in one.metrics[id]["warnings"]}
        yield described | metric_columns(arm, id) | {"warnings": "; ".join(sorted(warnings | arm.warnings))}
    described |= {"train_seeds": len(arm.repetitions), "sample_seeds": len(arm.repetitions[0].sets)}
    described |= {"card": "counted", "warnings": "; ".join(sorted(arm.warnings))}
    for metric, value in counts.items():
        yield described | {"metric": metric, "value": value, "ci_low": value, "ci_high": value}


def _comparisons(arms: list[Arm]) -> Iterator[dict[str, Any]]:
    """Guided minus unguided, seed by seed; only values whose cards agree."""
    unguided = {one.entry: arm for arm in arms if arm.guidance == "none" for one in arm.repetitions}
    for arm in arms:
        if arm.guidance == "none" or arm.run not in unguided:
            continue
        warnings = "; ".join(sorted(arm.warnings | unguided[arm.run].warnings))
        for difference in differences(arm, unguided[arm.run]):
            sides = {"guided": difference.value_a, "unguided": difference.value_b}
            described = {"run": arm.run, "guidance": arm.guidance, "warnings": warnings}
            yield described | sides | difference._asdict()
