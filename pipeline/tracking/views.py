"""Addresses of MLflow's pages, and the saved view of an experiment: its evaluations as one sorted table.

MLflow 3.17 opens every experiment as one of generative AI unless the address names the other mode. A view is a tag of
the experiment, as MLflow's own "Share" button writes it: every reader of the experiment can open it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from pipeline.console import redacted
from pipeline.tracking import backend

HOST, PORT = "127.0.0.1", 5000
MODE = {"workflowType": "machine_learning"}
VIEW = "results"  # name of the view in its address
SHOWN, CURRENT, EARLIER = "result", "current", "earlier"  # a tag of the runs in the view, and its values
NOTE = "mlflow.note.content"  # the description that MLflow shows above an experiment
WIDTHS = {"tags": 120, "metrics": 140}  # of columns, in pixels


class ResultsView(NamedTuple):
    """The table of one experiment."""

    experiment: str
    rows: Mapping[str, Mapping[str, str]]  # by id of a run: tags, each of which is a column
    metrics: Sequence[str]  # columns too; the rows are sorted by the first one
    ascending: bool
    note: str


def page(project: Path, path: str, query: Mapping[str, str], port: int = PORT) -> str:
    """Address of a page in the mode for machine learning: on the server, or on the one that `trilemma ui` starts."""
    uri = backend.tracking_uri(project)
    base = redacted(uri).rstrip("/") if backend.is_server(uri) else f"http://{HOST}:{port}"
    return f"{base}/#/{path}?{urlencode({**query, **MODE})}"


def save_view(project: Path, view: ResultsView, port: int = PORT) -> str | None:
    """Save the view in MLflow; its address, or None where the tracker has none of these runs.

    Runs that the view showed before and that are not among its rows any more leave it and keep their values.
    """
    uri = backend.tracking_uri(project)
    with backend.tracking_errors(uri):
        client = backend.mlflow_client(uri)
        experiment = client.get_experiment_by_name(view.experiment)
        if experiment is None:
            return None
        home = experiment.experiment_id
        known = {
            run.info.run_id: run.data.tags
            for run in client.search_runs([home], "tags.stage = 'evaluate'", max_results=50_000)
        }
        for run_id, tags in known.items():
            wanted = {SHOWN: EARLIER} if tags.get(SHOWN) == CURRENT else {}
            if run_id in view.rows:
                wanted = {**view.rows[run_id], SHOWN: CURRENT}
            for name, text in wanted.items():
                if tags.get(name) != text:
                    client.set_tag(run_id, name, text)
        if not known.keys() & view.rows.keys():
            return None
        for name, text in {NOTE: view.note, f"mlflow.sharedViewState.{VIEW}": json.dumps(_state(view))}.items():
            client.set_experiment_tag(home, name, text)
    return page(project, f"experiments/{home}/runs", {"viewStateShareKey": VIEW}, port)


def _state(view: ResultsView) -> dict[str, object]:
    tags = dict.fromkeys(name for row in view.rows.values() for name in row)
    columns = [*(f"tags.`{name}`" for name in tags), *(f"metrics.`{name}`" for name in view.metrics)]
    return {
        "searchFilter": f"tags.{SHOWN} = '{CURRENT}'",
        "orderByKey": f"metrics.`{view.metrics[0]}`",
        "orderByAsc": view.ascending,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {column: WIDTHS[column.partition(".")[0]] for column in columns},
    }
