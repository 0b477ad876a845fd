"""Measured values as tables: one row per value, each with its card, floor and interval."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline.artifacts import read_artifact
from pipeline.cards import METRICS, METRICS_FILE
from pipeline.config import Study, pick
from pipeline.errors import UserError
from pipeline.intervals import interval, paired, scope

DIGITS = 6  # significant, of every number in a table


class Sampled(NamedTuple):
    """A run, guided or not, with what `evaluate` found."""

    run: str
    guidance: str  # "none", or the guided entry's name
    train_seed: int
    content: dict[str, Any]


def write_tables(study: Study, dataset: str, folder: Path) -> None:
    """<dataset>.csv and <dataset>-guidance.csv."""
    pick(study.datasets, dataset, "dataset")
    found = list(sampled(study, dataset))
    folder.mkdir(parents=True, exist_ok=True)
    _write(pd.DataFrame([row for entry in found for row in _rows(entry)]), folder / f"{dataset}.csv")
    _write(pd.DataFrame(list(_comparisons(found))), folder / f"{dataset}-guidance.csv")


def sampled(study: Study, dataset: str) -> Iterator[Sampled]:
    """Every entry of params.yaml on this dataset, runs before what guides them."""
    for name, run in study.runs.items():
        if run.dataset != dataset:
            continue
        guided = [other for other, entry in study.guided.items() if entry.run == name]
        for entry, guidance in [(name, "none"), *((other, other) for other in guided)]:
            artifact = read_artifact(study.folder / "out" / "evaluate" / entry)
            content = json.loads((artifact.path / METRICS_FILE).read_text())
            yield Sampled(name, guidance, run.train.get("seed", 0), content)


def _rows(entry: Sampled) -> Iterator[dict[str, Any]]:
    counts = entry.content["counts"]
    sets = len(entry.content["sets"])
    for found in entry.content["metrics"]:
        mean, low, high, _ = interval(found["values"])
        card = found["card"]
        yield _row(entry, found["metric"], mean, low, high, found["floor"], card["text"], sets) | {
            "n_generated": card["n_generated"],
            "n_real": card["n_real"],
            "nfe": counts["nfe"],
        }
    for metric, value in counts.items():
        yield _row(entry, metric, value, value, value, None, "counted", sets) | {"nfe": counts["nfe"]}


def _row(
    entry: Sampled, metric: str, value: float, low: float, high: float, floor: float | None, card: str, sets: int
) -> dict[str, Any]:
    return {
        "run": entry.run,
        "guidance": entry.guidance,
        "metric": metric,
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "train_seeds": 1,
        "sample_seeds": sets,
        "n_generated": None,
        "n_real": None,
        "floor": floor,
        "nfe": None,
        "card": card,
    }


def _comparisons(found: list[Sampled]) -> Iterator[dict[str, Any]]:
    """Guided less unguided, seed by seed; only values whose cards agree."""
    plain = {entry.run: entry for entry in found if entry.guidance == "none"}
    for entry in found:
        if entry.guidance == "none":
            continue
        base = {metric["card"]["id"]: metric for metric in plain[entry.run].content["metrics"]}
        for metric in entry.content["metrics"]:
            if metric["card"]["id"] not in base:
                raise UserError(
                    f"{entry.guidance}: {metric['card']['text']} is not how {entry.run} was measured: "
                    "evaluate both again (dvc repro)"
                )
            unguided = base[metric["card"]["id"]]["values"]
            better = METRICS[metric["metric"]].better
            difference, low, high, verdict, seeds = paired(metric["values"], unguided, better)
            yield {
                "run": entry.run,
                "guidance": entry.guidance,
                "metric": metric["metric"],
                "unguided": interval(unguided).mean,
                "guided": interval(metric["values"]).mean,
                "difference": difference,
                "ci_low": low,
                "ci_high": high,
                "verdict": verdict,
                "scope": scope(1),
                "train_seeds": 1,
                "sample_seeds": seeds,
                "card": metric["card"]["text"],
            }


def _write(table: pd.DataFrame, file: Path) -> None:
    table.to_csv(file, index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
