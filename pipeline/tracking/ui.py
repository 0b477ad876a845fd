"""MLflow's pages: the local server that shows a project's runs, and the address of a comparison."""

import json
import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from pipeline.console import say
from pipeline.tracking.backend import (
    SETTINGS,
    TrackingError,
    artifact_folder,
    create_missing_database,
    is_server,
    mlflow_client,
    refuse_absent,
    tracking_errors,
    tracking_uri,
)

HOST, PORT = "127.0.0.1", 5000


def serve_ui(project: Path, port: int) -> None:
    """Become the server that shows the runs, until interrupted."""
    uri = tracking_uri(project)
    if is_server(uri):
        raise TrackingError(f"MLFLOW_TRACKING_URI is set: the runs are shown at {uri}")
    refuse_busy(port)
    with tracking_errors(uri):
        create_missing_database(uri)
    say(f"MLflow shows the runs at http://{HOST}:{port} (Ctrl-C ends it)")
    os.execve(sys.executable, ui_command(project, port), SETTINGS | os.environ)


def ui_command(project: Path, port: int) -> list[str]:
    stores = ["--backend-store-uri", tracking_uri(project), "--default-artifact-root", str(artifact_folder(project))]
    return [sys.executable, "-m", "mlflow", "server", *stores, "--workers", "1", "--host", HOST, "--port", str(port)]


def refuse_busy(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise TrackingError(
                f"port {port}: {error.strerror}; if no tracker is open at http://{HOST}:{port}, choose another port"
            ) from error


def compare_page(project: Path, run_ids: Sequence[str]) -> str:
    """Address of the page with these runs side by side: on the server, or on the one that `trilemma ui` starts."""
    uri = tracking_uri(project)
    refuse_absent(uri)
    with tracking_errors(uri):
        client = mlflow_client(uri)
        experiments = [client.get_run(run_id).info.experiment_id for run_id in run_ids]
    base = re.sub("(?<=://)[^/@]+@", "", uri).rstrip("/") if is_server(uri) else f"http://{HOST}:{PORT}"
    lists = {"runs": list(run_ids), "experiments": list(dict.fromkeys(experiments))}
    query = urlencode({name: json.dumps(ids, separators=(",", ":")) for name, ids in lists.items()})
    return f"{base}/#/compare-runs?{query}"
