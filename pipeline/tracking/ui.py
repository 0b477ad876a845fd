"""MLflow's pages: the local server that shows a project's runs, and the address of a comparison."""

import json
import os
import socket
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from pipeline.console import say
from pipeline.tracking import backend
from pipeline.tracking.views import HOST, page

START_SECONDS = 120  # in which a server starts on a busy machine


def serve_ui(project: Path, port: int, pages: Sequence[str] = (), opens: bool = False) -> None:
    """Become the server that shows the runs, until interrupted. pages: of views, printed; opens: the first of them."""
    uri = backend.tracking_uri(project)
    own = uri if backend.is_server(uri) else f"http://{HOST}:{port}"
    if backend.is_server(uri):
        print("\n".join(pages), flush=True)
        if opens:
            webbrowser.open(pages[0] if pages else own)
        raise backend.TrackingError(f"MLFLOW_TRACKING_URI is set: the runs are shown at {own}")
    refuse_busy(port)
    with backend.tracking_errors(uri):
        backend.create_missing_database(uri)
    say(f"MLflow shows the runs at {own} (Ctrl-C ends it)")
    for shown in pages:
        print(shown, flush=True)
    if opens:
        _open_later(pages[0] if pages else own, port)
    os.execve(sys.executable, ui_command(project, port), backend.SETTINGS | os.environ)


def _open_later(address: str, port: int) -> None:
    """In a process of its own, because this one becomes the server."""
    if os.fork():
        return
    for _ in range(START_SECONDS):
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            webbrowser.open(address)
            break
        except OSError:
            time.sleep(1)
    os._exit(0)


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
    lists = {"runs": list(run_ids), "experiments": list(dict.fromkeys(experiments))}
    return page(project, "compare-runs", {name: json.dumps(ids, separators=(",", ":")) for name, ids in lists.items()})
