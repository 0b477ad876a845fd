"""Connect to Ray: a private one that ends with this process, or a running cluster with enough free CPUs and GPUs.

A private Ray has its own folder and token, so that no other process joins it, and listens on loopback only. While two
or more workers train, torch's store, by which they find each other, listens on all interfaces: torch has no setting for
it. If this process is killed by SIGKILL, two agents of its private Ray live on for about a minute.
"""

import fcntl
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import grpc
import ray
import ray.exceptions
from ray._private import ray_constants

from pipeline.console import say
from pipeline.errors import UserError
from pipeline.launch.signals import on_sigterm

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # workers keep the driver's working directory
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # inside a submitted job, which has its own "excludes"
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # the default minute is short on a crowded host
}
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
ON_LOOPBACK = {  # of a private Ray
    "RAY_enable_metrics_collection": "0",  # its exporter listens on all interfaces
    "GLOO_SOCKET_IFNAME": LOOPBACK,
    "NCCL_SOCKET_IFNAME": LOOPBACK,
}
TOKEN = os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)  # Ray can change it only between processes
FOLDER_PREFIX = "tri-ray-"
MAX_PARENT_CHARACTERS = 20  # the path of Ray's sockets is some 80 longer, and a socket's path has at most 107
PROBE_SECONDS = 5
HEAD_LOST_SECONDS = 60  # without an answer from the cluster's head
WAIT_FOR_FREE_SECONDS = 20  # a job that just ended gives its CPUs back only after some seconds
CLUSTER_ID_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # the first call of every client


@contextmanager
def private_ray(folder: Path, cpus: int, gpus: int) -> Iterator[None]:
    """Start a Ray of this size, with its files in a subfolder, because Ray makes that one readable by all users."""
    size = {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False, "_temp_dir": str(folder / "r")}
    settings = SETTINGS | ON_LOOPBACK | {"RAY_AUTH_TOKEN": TOKEN}
    with _settings(settings), _own_address_is_loopback(), _connected("local", **size):
        yield


@contextmanager
def _own_address_is_loopback() -> Iterator[None]:
    """`ray.init` replaces a 127.0.0.1 that it is given by the address of a network, except where Ray has no clusters.

    Ray decides that once, when it is imported; a cluster that this process joins later needs the network's address.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def joined_cluster(address: str) -> Iterator[Mapping[str, float]]:
    """Join a running Ray, at host:port or, on its head node, "auto"; yields its resources, such as "CPU" and "GPU"."""
    _check_reachable(address)
    with _settings(SETTINGS), _connected(address, runtime_env=_own_code()), _watched_head(address):
        yield ray.cluster_resources()


def _own_code() -> dict[str, list[str]]:
    """Sent to the workers, which would otherwise run the version that their machine has installed."""
    root = Path(__file__).parents[2]
    return {"py_modules": [str(root / "methods"), str(root / "pipeline")], "excludes": ["**/__pycache__"]}


@contextmanager
def own_folder() -> Iterator[Path]:
    """A fresh folder, removed at the end; if this process is killed, by the next one that makes such a folder."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > MAX_PARENT_CHARACTERS:
        parent = Path("/tmp")
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError), (folder / "owner").open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises an OSError while its owner lives
            shutil.rmtree(folder, ignore_errors=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{FOLDER_PREFIX}", dir=parent))
    with (hidden / "owner").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        folder = hidden.rename(parent / hidden.name[1:])
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def check_room(workers: int, room: Mapping[str, float], where: str, gpus: bool, option: str = "--workers") -> None:
    """One CPU for each worker, and one GPU if GPUs are used."""
    for kind in ("CPU", "GPU") if gpus else ("CPU",):
        have = room.get(kind, 0)
        if have < workers:
            raise UserError(f"{option} {workers} needs as many {kind}s, but {where} {have:g}: ask for fewer")


def wait_for_room(workers: int, where: str, gpus: bool, option: str = "--workers") -> None:
    """Until the joined cluster has so many free; an error if it stays busy."""
    deadline = time.monotonic() + WAIT_FOR_FREE_SECONDS
    while True:
        try:
            return check_room(workers, ray.available_resources(), f"{where} has free", gpus, option)
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def machine_room(gpus: int) -> dict[str, float]:
    """CPUs and GPUs that this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"CPU": cpus or 1, "GPU": gpus}


@contextmanager
def _connected(address: str, **settings: Any) -> Iterator[None]:
    """Connected to Ray, whose own messages stay in its log files; what our functions print is printed here.

    Ray changes the root logger and the handler of SIGTERM; both are restored.
    """
    root = logging.getLogger()
    level, handlers, on_term = root.level, root.handlers[:], signal.getsignal(signal.SIGTERM)
    quiet = {"logging_level": logging.ERROR, "logging_config": ray.LoggingConfig(log_level="ERROR")}
    try:
        try:
            ray.init(address, **quiet, **settings)
        except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
            action = "start a private Ray" if address == "local" else f"join the Ray at {address}"
            to_do = ": install the same on both" if "Version mismatch" in str(error) else ""
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"cannot {action}: {reason}{to_do}") from error
        finally:
            root.setLevel(level)
            root.handlers[:] = handlers
            if threading.current_thread() is threading.main_thread():
                on_sigterm() if on_term is signal.SIG_DFL else signal.signal(signal.SIGTERM, on_term)
        yield
    finally:
        ray.shutdown(wait_for_processes=True)


def _check_reachable(address: str) -> None:
    """Fail within PROBE_SECONDS; `ray.init` would try a wrong address or token 20 times, 40 seconds each."""
    if address == "auto":
        return
    try:
        _cluster_id(address)
    except grpc.RpcError as error:
        code = cast(grpc.Call, error).code().name
        raise UserError(
            f"no Ray cluster can be joined at {address} ({code}): give host:port of its head node, where the port is "
            "usually 6379, and in RAY_AUTH_TOKEN the token that its nodes were started with"
        ) from None


def cluster_token() -> str:
    """The token that Ray's clients use, or ""."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return os.environ.get("RAY_AUTH_TOKEN") or (file.read_text().strip() if file.is_file() else "")


def _cluster_id(address: str) -> bytes:
    """Changes when the cluster's head is replaced."""
    metadata = (("authorization", f"Bearer {cluster_token()}"),)
    with grpc.insecure_channel(address) as channel:
        return channel.unary_unary(CLUSTER_ID_CALL)(b"", metadata=metadata, timeout=PROBE_SECONDS)


@contextmanager
def _watched_head(address: str) -> Iterator[None]:
    """Send SIGTERM to this process when the cluster's head is lost; Ray itself would wait for results forever."""
    address = ray.get_runtime_context().gcs_address if address == "auto" else address
    done = threading.Event()

    def probe() -> None:
        joined, last_answer = b"", time.monotonic()
        while not done.is_set():
            try:
                answer = _cluster_id(address)
                joined, last_answer = joined or answer, time.monotonic()
                if answer != joined:
                    break
            except grpc.RpcError:
                if time.monotonic() - last_answer > HEAD_LOST_SECONDS:
                    break
            done.wait(PROBE_SECONDS)
        if not done.is_set():
            say(f"lost the Ray cluster at {address}: run the same command again to resume")
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=probe, name="cluster", daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def _settings(settings: Mapping[str, str]) -> Iterator[None]:
    """Ray's own variables are restored too, which it changes."""

    def is_ours(name: str) -> bool:
        return name.startswith("RAY_") or name in settings

    before = {name: value for name, value in os.environ.items() if is_ours(name)}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in filter(is_ours, list(os.environ)):
            del os.environ[name]
        os.environ.update(before)
