"""MLflow's pages: the local server that shows a project's runs, and the address of a comparison."""

import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from pipeline.console import redacted, say
from pipeline.tracking import backend

HOST, PORT = "127.0.0.1", 5000


def serve_ui(project: Path, port: int) -> None:
    """Become the server that shows the runs, until interrupted."""
    uri = backend.tracking_uri(project)
    if backend.is_server(uri):
        raise backend.TrackingError(f"MLFLOW_TRACKING_URI is set: the runs are shown at {uri}")
    refuse_busy(port)
    with backend.tracking_errors(uri):
        backend.create_missing_database(uri)
    say(f"MLflow shows the runs at http://{HOST}:{port} (Ctrl-C ends it)")
    os.execve(sys.executable, ui_command(project, port), backend.SETTINGS | os.environ)


def ui_command(project: Path, port: int) -> list[str]:
    uri, artifacts = backend.tracking_uri(project), str(backend.artifact_folder(project))
    stores = ["--backend-store-uri", uri, "--default-artifact-root", artifacts, "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *stores, "--host", HOST, "--port", str(port)]


def refuse_busy(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise backend.TrackingError(
                f"port {port}: {error.strerror}; if no tracker is open at http://{HOST}:{port}, choose another port"
            ) from error


def compare_page(project: Path, run_ids: Sequence[str]) -> str:
    """Address of the page with these runs side by side: on the server, or on the one that `trilemma ui` starts."""
    uri = backend.tracking_uri(project)
    backend.refuse_absent(uri)
    with backend.tracking_errors(uri):
        client = backend.mlflow_client(uri)
        experiments = [client.get_run(run_id).info.experiment_id for run_id in run_ids]
    base = redacted(uri).rstrip("/") if backend.is_server(uri) else f"http://{HOST}:{PORT}"
    lists = {"runs": list(run_ids), "experiments": list(dict.fromkeys(experiments))}
    query = urlencode({name: json.dumps(ids, separators=(",", ":")) for name, ids in lists.items()})
    return f"{base}/#/compare-runs?{query}"
