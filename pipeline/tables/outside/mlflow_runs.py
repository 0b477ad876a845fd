"""An MLflow experiment as a table with one row per finished run, and the verdicts as a tag on it."""

import json
from collections import Counter
from pathlib import Path

from pipeline.tables.outside.files import unfinished_note
from pipeline.tables.outside.groups import Table
from pipeline.tables.outside.verdicts import Answer
from pipeline.tracking.experiment import read_runs, tag_experiment

TAG = "trilemma.compare"


def read_experiment(project: Path, experiment: str) -> Table:
    """Columns: parameters, tags and the last values of metrics."""
    runs = read_runs(project, experiment)
    finished = [run for run in runs if run.status == "FINISHED"]
    names = dict.fromkeys(name for run in finished for name in run.fields)
    columns = {name: [run.fields.get(name) for run in finished] for name in names}
    source = f"mlflow:{experiment}"
    notes = unfinished_note(source, Counter(run.status for run in runs if run.status != "FINISHED"))
    return Table(source, columns, [f"run {run.id}" for run in finished], notes, is_tracked=True)


def write_tag(project: Path, experiment: str, answer: Answer) -> str:
    """{"baseline": ..., METRIC: {GROUP: verdict}} on the experiment, in place of an earlier one. Returns the name."""
    verdicts: dict[str, dict[str, str | None]] = {}
    for row in answer.rows:
        if row.group != answer.baseline:
            verdicts.setdefault(row.metric, {})[row.group] = row.verdict
    content = {"baseline": answer.baseline, "verdict": answer.verdict, "metrics": verdicts}
    tag_experiment(project, experiment, TAG, json.dumps(content, separators=(",", ":")))
    return TAG
