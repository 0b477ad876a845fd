"""The runs of params.yaml with their stages' state and their metrics (`trilemma runs`)."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.config.study import Study, load_study
from pipeline.dag.graph import chain
from pipeline.data.artifacts import MANIFEST
from pipeline.metrics.card import METRICS_FILE

QUALITY, COVERAGE = ("fid", "fd", "hq"), ("mode_kl", "recall")  # the first that was measured stands for each


def list_runs(folder: Path) -> Iterator[dict[str, Any]]:
    """One per run and guided entry: run, guidance, dataset, method, stages with their state, metrics."""
    study = load_study(folder / "params.yaml")
    for name in [*study.runs, *study.guided]:
        run = study.guided[name].run if name in study.guided else name
        calls = chain(study, "evaluate", name)
        yield {
            "run": run,
            "guidance": "none" if name == run else name,
            "dataset": study.runs[run].dataset,
            "method": study.runs[run].method,
            "stages": [{"stage": call.verb, "name": call.name, "state": _state(call.out)} for call in calls],
            "metrics": list(_metrics(study, name)),
        }


def _state(out: Path) -> str:
    return "complete" if (out / MANIFEST).is_file() else "missing"


def _metrics(study: Study, name: str) -> Iterator[dict[str, Any]]:
    file = study.out / "evaluate" / name / METRICS_FILE
    if not file.is_file():
        return
    content = json.loads(file.read_text())
    for metric in content["metrics"]:
        own = {key: metric[key] for key in ("metric", "real_vs_real")}
        yield own | {"value": fmean(metric["values"]), "card": metric["card"]["text"]}
    for name, value in content["counts"].items():
        yield {"metric": name, "value": value, "card": "counted"}
