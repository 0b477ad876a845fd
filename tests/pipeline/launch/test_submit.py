"""Jobs on a real head node on loopback: which clients are refused, what is sent, and which secrets are not."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from textwrap import dedent
from threading import Thread
from typing import Any

import pytest
import ray
import requests

from tests.support.children import ROOT, wait_for
from tests.support.toy_study import BIN, ToyStudy

PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-9f2c",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-9f2c",
    "PGPASSWORD": "planted-postgres-9f2c",
}


@dataclass(frozen=True)
class Head:
    gcs: str
    dashboard: str
    token: str
    folder: Path

    def get(self, path: str, token: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return requests.get(f"{self.dashboard}{path}", headers=headers, timeout=30)

    def status(self, job: str) -> str:
        return self.get(f"/api/jobs/{job}", self.token).json()["status"]

    def logs(self, job: str) -> str:
        return self.get(f"/api/jobs/{job}/logs", self.token).json()["logs"]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with started() as found:
        yield found


@contextmanager
def started(*options: str) -> Iterator[Head]:
    """`ray start` with a token, as infra/README.md has it, with the secrets of a node in its environment."""
    token, folder = secrets.token_hex(32), Path(tempfile.mkdtemp(prefix="tri-head-", dir="/tmp"))
    gcs, dashboard, agent = free_ports(3)
    command = ["ray", "start", "--head", "--node-ip-address", "127.0.0.1", "--port", str(gcs), "--num-cpus", "2"]
    command += [
        "--dashboard-port",
        str(dashboard),
        "--dashboard-agent-listen-port",
        str(agent),
        "--temp-dir",
        str(folder / "r"),
        "--disable-usage-stats",
        "--block",
    ]
    command += options
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TRILEMMA_"))}
    environment |= {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    with (folder / "log").open("w") as log:
        node = subprocess.Popen(command, env=environment | PLANTED, stdout=log, stderr=log, start_new_session=True)
    found = Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", token, folder)
    try:
        assert wait_for(lambda: node.poll() is not None or answers(found), 180)
        assert node.poll() is None, (folder / "log").read_text()
        yield found
    finally:
        node.terminate()  # it drains the node and ends what it started
        node.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def toy(tmp_path: Path) -> ToyStudy:
    toy = ToyStudy.build(tmp_path / "house")
    toy.call("git", "-C", str(toy.house), "init", "--quiet")
    toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
    (toy.house / ".gitignore").write_text(".trilemma/\nout/\n")
    return toy


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def answers(head: Head) -> bool:
    try:
        return head.get("/api/jobs/", head.token).ok
    except requests.RequestException:
        return False


def shared(tmp_path: Path, **more: str) -> dict[str, Any]:
    return {
        "TRILEMMA_STORE": str(tmp_path / "store"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "HOME": str(tmp_path),  # where no token lies
        **more,
    }


def refused(toy: ToyStudy, *arguments: str, **environment: str) -> str:
    """The one line with which `submit` refuses."""
    began = time.monotonic()
    (line,) = toy.run("submit", *arguments, code=2, **environment).stderr.splitlines()
    assert time.monotonic() - began < 30  # the promise, not a measurement
    return line


def test_what_cannot_be_submitted_is_one_line(toy: ToyStudy, tmp_path: Path) -> None:
    given = shared(tmp_path, RAY_AUTH_TOKEN="any")
    (port,) = free_ports(1)
    nowhere = ("--dashboard", f"http://127.0.0.1:{port}", "prepare", "digits")
    assert f"no Ray dashboard answers at http://127.0.0.1:{port}" in refused(toy, *nowhere, **given)
    assert "no token for the cluster: set RAY_AUTH_TOKEN" in refused(toy, *nowhere, **shared(tmp_path))
    assert "TRILEMMA_STORE is not set" in refused(toy, *nowhere, **(given | {"TRILEMMA_STORE": ""}))
    leaky = given | {"MLFLOW_TRACKING_URI": "http://me:planted-9f2c@127.0.0.1:5000"}
    line = refused(toy, *nowhere, **leaky)
    assert "MLFLOW_TRACKING_URI has credentials in it" in line
    assert "planted" not in line
    assert "no command 'trian'" in refused(toy, "trian", "toy", **given)


def test_another_version_of_ray_and_another_service_are_told_apart(toy: ToyStudy, tmp_path: Path) -> None:
    answer = [b'{"ray_version": "2.9.0"}', b"<html>"]

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.pop(0))

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        arguments = ("--dashboard", f"http://127.0.0.1:{server.server_port}", "prepare", "digits")
        given = shared(tmp_path, RAY_AUTH_TOKEN="any")
        assert "runs Ray 2.9.0, here is" in refused(toy, *arguments, **given)
        assert "is no Ray dashboard" in refused(toy, *arguments, **given)
        server.shutdown()


@pytest.mark.ray
def test_an_unauthenticated_client_is_refused(head: Head) -> None:
    for path in ("/api/version", "/api/jobs/", "/api/cluster_status", "/nodes"):
        assert head.get(path, "").status_code == 401
        assert head.get(path, "wrong").status_code == 403
    assert head.get("/api/version", head.token).ok
    posted = requests.post(f"{head.dashboard}/api/jobs/", json={"entrypoint": "touch /tmp/never"}, timeout=30)
    assert posted.status_code == 401


def driver(head: Head, folder: Path, token: str, code: str) -> "subprocess.CompletedProcess[str]":
    """A process of its own, for Ray takes a token only when it is imported: by the first call of `launcher`."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "RAY_AUTH_TOKEN": token}
    code = (
        f"from pipeline.launch.launcher import launcher\naddress = {head.gcs!r}\nlauncher(1, address)\n{dedent(code)}"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def refusal(head: Head, folder: Path, token: str, before: str = "") -> str:
    """The last line of a driver that tries to join the cluster."""
    child = driver(head, folder, token, f"{before}\nwith launcher(1, address): print('joined')")
    assert "joined" not in child.stdout
    return child.stderr.splitlines()[-1]


@pytest.mark.ray
@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_driver_without_the_token_is_refused_at_once(head: Head, tmp_path: Path, token: str) -> None:
    line = refusal(head, tmp_path, token)
    assert f"UserError: no Ray cluster can be joined at {head.gcs} (UNAUTHENTICATED): give host:port" in line
    assert "in RAY_AUTH_TOKEN the token" in line


@pytest.mark.ray
def test_a_driver_of_another_version_is_refused_with_both_versions(head: Head, tmp_path: Path) -> None:
    line = refusal(head, tmp_path, head.token, before="import ray\nray.__version__ = '2.9.0'")
    assert f"UserError: cannot join the Ray at {head.gcs}: Version mismatch" in line
    assert f"Ray: {ray.__version__} " in line
    assert "Ray: 2.9.0 " in line
    assert line.endswith("install the same on both")


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_makes_what_this_machine_makes_and_tells_no_secret(head: Head, toy: ToyStudy, tmp_path: Path) -> None:
    given = shared(tmp_path, **PLANTED)
    wrong = refused(toy, "--dashboard", head.dashboard, "prepare", "digits", RAY_AUTH_TOKEN="no", **given)
    assert "refuses this token" in wrong
    command = ["repro", "pretrain@toy", "--jobs", "2", "--workers", "1", "--address", "auto"]
    submitted = toy.run("submit", "--dashboard", head.dashboard, *command, RAY_AUTH_TOKEN=head.token, **given)
    job = submitted.stdout.strip()
    assert wait_for(lambda: head.status(job) in ("SUCCEEDED", "FAILED", "STOPPED"), 500)
    assert head.status(job) == "SUCCEEDED", head.logs(job)
    assert "repro: 2 ran" in head.logs(job)
    toy.run("prepare", "digits", **given)
    child = toy.run("pretrain", "toy", **given)
    assert "from the store" in child.stderr  # the same key on both machines
    there = toy.digests()
    alone: dict[str, Any] = {"TRILEMMA_STORE": str(tmp_path / "other")}
    assert "computed" in toy.run("pretrain", "toy", **(given | alone)).stderr
    assert toy.digests() == there
    hidden = (head.token, *PLANTED.values())
    places = [path for root in (tmp_path, head.folder) for path in root.rglob("*") if path.is_file()]
    assert len(places) > 50
    for path in places:
        content = path.read_bytes()
        assert not [secret for secret in hidden if secret.encode() in content], path
    assert not [secret for secret in hidden if secret in head.get("/api/jobs/", head.token).text]
