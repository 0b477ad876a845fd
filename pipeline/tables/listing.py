"""Tables in the terminal: the runs of params.yaml with state and metrics (`trilemma runs`), and `trilemma plan`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.config.study import Study, load_study
from pipeline.console import table_console
from pipeline.data.artifacts import MANIFEST
from pipeline.metrics.card import METRICS_FILE


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """One entry per run and guided entry: run, guidance, dataset, method, stages with their state, metrics."""
    study = load_study(folder / "params.yaml")
    plain = [_entry(study, name, name, []) for name in study.runs]
    guided = [
        _entry(study, name, entry.run, [use["guide"] for use in entry.guides]) for name, entry in study.guided.items()
    ]
    return plain + guided


def print_runs(found: list[dict[str, Any]]) -> None:
    """A table for people."""
    from rich.table import Table

    table = Table("run", "guidance", "method", "stages", "metrics", box=None)
    for entry in found:
        stages = " ".join(f"{stage['stage']}:{stage['state']}" for stage in entry["stages"])
        metrics = " ".join(f"{metric['metric']}={metric['value']:.4g}" for metric in entry["metrics"])
        table.add_row(entry["run"], entry["guidance"], entry["method"], stages, metrics)
    table_console().print(table)


def _entry(study: Study, name: str, run: str, guides: list[str]) -> dict[str, Any]:
    dataset = study.runs[run].dataset
    stages = [("prepare", dataset), ("features", dataset), ("pretrain", run)]
    stages += [stage for guide in guides for stage in _teaching(study, guide)]
    stages = [*dict.fromkeys(stages), ("sample", name), ("evaluate", name)]
    return {
        "run": run,
        "guidance": name if guides else "none",
        "dataset": dataset,
        "method": study.runs[run].method,
        "stages": [{"stage": stage, "name": entry, "state": _state(study, stage, entry)} for stage, entry in stages],
        "metrics": _metrics(study, name),
    }


def _teaching(study: Study, guide: str) -> list[tuple[str, str]]:
    """What a guide or classifier comes from."""
    if guide in study.classifiers:
        return [("classify", guide)]
    entry = study.guides[guide]
    trunk = [] if entry.trunk is None else [("classify", entry.trunk)]
    return [("generate", guide), *trunk, ("discriminate", guide)]


def _state(study: Study, stage: str, name: str) -> str:
    return "complete" if (study.out / stage / name / MANIFEST).is_file() else "missing"


def _metrics(study: Study, name: str) -> list[dict[str, Any]]:
    file = study.out / "evaluate" / name / METRICS_FILE
    if not file.is_file():
        return []
    content = json.loads(file.read_text())
    measured = [
        {
            "metric": found["metric"],
            "value": fmean(found["values"]),
            "real_vs_real": found["real_vs_real"],
            "card": found["card"]["text"],
        }
        for found in content["metrics"]
    ]
    return measured + [{"metric": key, "value": value, "card": "counted"} for key, value in content["counts"].items()]


def print_plan(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "name", "state", "seconds", "peak MiB", "from", box=None)
    for row in rows:
        numbers = ["" if row[name] is None else f"{row[name]:.0f}" for name in ("seconds", "memory_mib")]
        table.add_row(row["stage"], row["name"], row["state"], *numbers, row["source"] or "unknown")
    Console().print(table)
    missing = [row["seconds"] for row in rows if row["state"] != "stored"]
    known = [seconds for seconds in missing if seconds is not None]
    print(
        f"{len(missing)} of {len(rows)} stages to compute; {len(known)} of them take about {sum(known):.0f} s together"
    )
