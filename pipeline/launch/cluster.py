"""A Ray to run on: a private one that ends with this process, or a running cluster with enough free CPUs and GPUs.

If this process is killed by SIGKILL, two agents of its private Ray live on for about a minute.

A private Ray has its own folder and token, joins no other Ray of the host and is joined by nobody.
"""

import fcntl
import logging
import os
import secrets
import shutil
import signal
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

from pipeline.console import say
from pipeline.errors import UserError
from pipeline.launch.signals import on_sigterm

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # workers stay in our working directory
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # inside a submitted job, which has "excludes" of its own
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # the default minute is short on a crowded host
}
TOKEN = os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)  # Ray can change it only between processes
FOLDER = "tri-ray-"
LONGEST_PARENT = 20  # characters: Ray's sockets lie some 80 characters deeper, and a socket's path has at most 107
PROBE_SECONDS = 5
LOST_SECONDS = 60  # without an answer from the head
FREE_SECONDS = 20  # a job that just ended gives its CPUs back only after some seconds
CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # the first call of every client


@contextmanager
def private_ray(folder: Path, cpus: int, gpus: int) -> Iterator[None]:
    """Start a Ray of this size; its files are in a subfolder, because Ray makes that one readable by all users."""
    size = {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False, "_temp_dir": str(folder / "r")}
    with _settings(SETTINGS | {"RAY_AUTH_TOKEN": TOKEN}), _connected("local", **size):
        yield


@contextmanager
def joined_cluster(address: str) -> Iterator[Mapping[str, float]]:
    """Join a running Ray, at host:port or, on its head node, "auto"; yields what it has by kind, as "CPU" and "GPU"."""
    _check_reachable(address)
    with _settings(SETTINGS), _connected(address, runtime_env=_own_code()), _watched(address):
        yield ray.cluster_resources()


def _own_code() -> dict[str, list[str]]:
    """For the workers, which would otherwise run whatever version their machine has installed: not the key's."""
    root = Path(__file__).parents[2]
    return {"py_modules": [str(root / "methods"), str(root / "pipeline")], "excludes": ["**/__pycache__"]}


@contextmanager
def own_folder() -> Iterator[Path]:
    """A fresh folder, removed at the end; if this process is killed, by the next one that makes such a folder."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > LONGEST_PARENT:
        parent = Path("/tmp")
    for folder in parent.glob(f"{FOLDER}*"):
        with suppress(OSError), (folder / "owner").open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError while its owner lives
            shutil.rmtree(folder, ignore_errors=True)
    unseen = Path(tempfile.mkdtemp(prefix=f".{FOLDER}", dir=parent))
    with (unseen / "owner").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        folder = unseen.rename(parent / unseen.name[1:])
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
    """Until the joined cluster has that much free; a cluster that stays busy is an error, not a queue."""
    deadline = time.monotonic() + FREE_SECONDS
    while True:
        try:
            return check_room(workers, ray.available_resources(), f"{where} has free", gpus, option)
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def machine_room(gpus: int) -> dict[str, float]:
    """What this machine lets this process use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"CPU": cpus or 1, "GPU": gpus}


@contextmanager
def _connected(address: str, **settings: Any) -> Iterator[None]:
    """Quietly: what our own functions print arrives here, Ray's chatter stays in its log files.

    Ray changes the root logger and the handler of SIGTERM: the logger is put back, and SIGTERM ends in order.
    """
    root = logging.getLogger()
    level, handlers, before = root.level, root.handlers[:], signal.getsignal(signal.SIGTERM)
    quiet = {"logging_level": logging.ERROR, "logging_config": ray.LoggingConfig(log_level="ERROR")}
    try:
        try:
            ray.init(address, **quiet, **settings)
        except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
            wanted = "start a private Ray" if address == "local" else f"join the Ray at {address}"
            to_do = ": install the same on both" if "Version mismatch" in str(error) else ""
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"cannot {wanted}: {reason}{to_do}") from error
        finally:
            root.setLevel(level)
            root.handlers[:] = handlers
            _set_sigterm(before)
        yield
    finally:
        ray.shutdown(wait_for_processes=True)


def _set_sigterm(handler: Any) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    if handler is signal.SIG_DFL:
        on_sigterm()
    else:
        signal.signal(signal.SIGTERM, handler)


def _check_reachable(address: str) -> None:
    """Fail within PROBE_SECONDS: `ray.init` alone would try a wrong address or token 20 times, 40 seconds each."""
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
    """The token that Ray's clients use; empty if there is none."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return os.environ.get("RAY_AUTH_TOKEN") or (file.read_text().strip() if file.is_file() else "")


def _cluster_id(address: str) -> bytes:
    """Changes when the cluster's head is replaced."""
    metadata = (("authorization", f"Bearer {cluster_token()}"),)
    with grpc.insecure_channel(address) as channel:
        return channel.unary_unary(CLUSTER_ID)(b"", metadata=metadata, timeout=PROBE_SECONDS)


@contextmanager
def _watched(address: str) -> Iterator[None]:
    """Stop this process by SIGTERM when the cluster's head is lost, because Ray would wait for results forever."""
    address = ray.get_runtime_context().gcs_address if address == "auto" else address
    done = threading.Event()

    def look() -> None:
        joined, heard = b"", time.monotonic()
        while not done.is_set():
            try:
                found = _cluster_id(address)
                joined, heard = joined or found, time.monotonic()
                if found != joined:
                    break
            except grpc.RpcError:
                if time.monotonic() - heard > LOST_SECONDS:
                    break
            done.wait(PROBE_SECONDS)
        if not done.is_set():
            say(f"lost the Ray cluster at {address}: the same command goes on")
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="cluster", daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def _settings(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(before)
