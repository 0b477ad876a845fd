"""A cluster on loopback: two raylets with a token, MLflow on Postgres, and an S3 server for artifacts and the store.

Every part can be killed, and comes back as a supervisor would bring it back. The raylets do not see the driver's disk,
where this process may take it from them.
"""

import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg2
from moto.server import ThreadedMotoServer

from tests.pipeline.launch.test_submit import free_ports
from tests.support.children import wait_for
from tests.support.toy_study import BIN

BUCKET = "trilemma"
NODES = ("127.0.0.1", "127.0.0.2")  # two addresses, so that Ray sees two hosts
START_SECONDS = 300
SECRETS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass
class Cluster:
    folder: Path
    disk: Path  # the driver's; short, for its temporary files lie there, too
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    nodes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request to S3
        self.gcs_port, self.postgres_port, self.mlflow_port, self.s3_port = free_ports(4)
        self.s3 = ThreadedMotoServer("127.0.0.1", self.s3_port, verbose=False)
        self.tracker = f"http://127.0.0.1:{self.mlflow_port}"
        self.address = f"{NODES[0]}:{self.gcs_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a stage must be told; what it finds in `ray start`'s environment on real nodes included."""
        return SECRETS | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.s3_port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_TRACKING_URI": self.tracker,
            "RAY_AUTH_TOKEN": self.token,
            "RAY_AUTH_MODE": "token",
        }

    @cached_property
    def hides(self) -> bool:
        """Whether an empty disk can be mounted over the driver's."""
        return subprocess.run([*self._hidden, "true"], capture_output=True, check=False).returncode == 0

    @property
    def _hidden(self) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {self.disk} && exec "$@"', "sh"]

    @contextmanager
    def running(self) -> Iterator["Cluster"]:
        mlflow = None
        try:
            self.s3.start()
            self.bucket.create_bucket(Bucket=BUCKET)
            self._start_postgres()
            mlflow = self._start_mlflow()
            for node in NODES:
                self.start_raylet(node)
            assert wait_for(lambda: mlflow.poll() is not None or self._tracker_answers(), START_SECONDS)
            assert mlflow.poll() is None, (self.folder / "mlflow.log").read_text()
            yield self
        finally:
            for node in self.nodes.values():
                end(node)
            if mlflow is not None:
                end(mlflow)
            self._postgres("stop", "-m", "immediate")
            self.s3.stop()

    def start_raylet(self, node: str) -> None:
        """The first node is the head; one CPU each, so that two stages side by side need both."""
        command = [*self._hidden] if self.hides else []
        command += [BIN / "ray", "start", "--node-ip-address", node, "--num-cpus", "1"]
        command += ["--disable-usage-stats", "--block"]
        if node == NODES[0]:
            command += ["--head", "--port", str(self.gcs_port), "--include-dashboard", "false"]
            command += ["--temp-dir", str(self.folder / "r")]
        else:
            command += ["--address", self.address]
        for _ in range(10):  # Ray itself gives up after half a minute, which a busy machine may take
            self.nodes[node] = self._start(f"ray-{node}", *map(str, command))
            assert wait_for(lambda: self._has_started(node) or self.nodes[node].poll() is not None, START_SECONDS)
            if self._has_started(node):
                return
            end(self.nodes[node])
        raise AssertionError((self.folder / f"ray-{node}.log").read_text())

    def _has_started(self, node: str) -> bool:
        return "Ray runtime started" in (self.folder / f"ray-{node}.log").read_text()

    def replace_raylet(self, node: str) -> None:
        """kill -9 of it and its workers; without the head the other one dies, too. Then new ones, from a supervisor."""
        lost = NODES if node == NODES[0] else (node,)
        for one in lost:
            end(self.nodes[one])
        for one in lost:
            self.start_raylet(one)

    def workers(self) -> list[psutil.Process]:
        """Those at work."""
        alive = [process for node in self.nodes.values() for process in family(node)]
        return [process for process in alive if process.name().startswith(("ray::RayTrainWorker", "ray::_run_call"))]

    def restart_postgres(self) -> None:
        self._postgres("restart", "-m", "immediate", "-w")

    def lose_s3(self, seconds: float) -> None:
        """Nobody listens; what was uploaded stays."""
        self.s3.stop()
        time.sleep(seconds)
        self.s3.start()

    @property
    def bucket(self) -> Any:
        named = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.s3_port}", **named)

    def objects(self, prefix: str) -> list[str]:
        pages = self.bucket.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        found = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [name for name in found if not name.endswith("/")]  # pyarrow marks folders

    def read(self, name: str) -> bytes:
        return self.bucket.get_object(Bucket=BUCKET, Key=name)["Body"].read()

    def select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """From MLflow's database."""
        where = {"host": "127.0.0.1", "port": self.postgres_port, "user": "mlflow", "dbname": "postgres"}
        with closing(psycopg2.connect(**where)) as database, database.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()

    def _start_postgres(self) -> None:
        home = self.folder / "postgres"
        home.mkdir()
        if os.geteuid() == 0:
            shutil.chown(home, "nobody")
        self._as_nobody("initdb", "--pgdata", str(home / "data"), "--username", "mlflow", "--auth", "trust")
        options = f"-c listen_addresses=127.0.0.1 -c port={self.postgres_port} -c unix_socket_directories={home}"
        self._postgres("start", "-w", "--options", options)

    def _postgres(self, verb: str, *options: str) -> None:
        home = self.folder / "postgres"
        self._as_nobody("pg_ctl", "--pgdata", str(home / "data"), "--log", str(home / "log"), verb, *options)

    def _as_nobody(self, *command: str) -> None:
        """Postgres refuses to run as root."""
        user = ["setpriv", "--reuid", "nobody", "--clear-groups"] if os.geteuid() == 0 else []
        subprocess.run([*user, *command], cwd="/", check=True, stdout=subprocess.DEVNULL, timeout=120)

    def _start_mlflow(self) -> "subprocess.Popen[bytes]":
        command = [BIN / "mlflow", "server", "--host", "127.0.0.1", "--port", self.mlflow_port, "--workers", "1"]
        command += ["--backend-store-uri", f"postgresql+psycopg2://mlflow@127.0.0.1:{self.postgres_port}/postgres"]
        command += ["--artifacts-destination", f"s3://{BUCKET}/mlflow"]
        return self._start("mlflow", *map(str, command))

    def _tracker_answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.tracker}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TRILEMMA_"))}
        told = {"PATH": f"{BIN}:{os.environ['PATH']}", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command, env=kept | self.environment | told, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )


def family(service: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """What it started, and what that started."""
    try:
        return psutil.Process(service.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def end(service: "subprocess.Popen[bytes]") -> None:
    """At once, with all that it started: it has a session of its own."""
    found = family(service)
    with suppress(ProcessLookupError):
        os.killpg(service.pid, signal.SIGKILL)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    service.wait(30)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """In a folder with a short name, for Ray puts sockets below it."""
    folder, disk = (Path(tempfile.mkdtemp(prefix=f"tri-{name}-", dir="/tmp")) for name in "cd")
    folder.chmod(0o755)
    try:
        with Cluster(folder, disk).running() as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(disk, ignore_errors=True)
