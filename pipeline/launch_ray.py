"""Ray Train for loops, Ray tasks for fan-out; the only module that imports Ray.

Ray starts N copies of our own loop and connects them. It keeps no checkpoints (training state lives in the store) and
restarts nothing. A private Ray has its own folder and token, joins no other Ray of the host and dies with this process.
"""

import fcntl
import logging
import os
import pickle
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar, TypeVarTuple

import psutil
import ray
import ray.exceptions
import torch
from ray.train import ControllerError, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train import get_context as worker_context
from ray.train.torch import TorchTrainer, get_device
from torch import Tensor, distributed

from pipeline.errors import UserError
from pipeline.launch import LaunchError, Worker, device_name, reproducible
from pipeline.process import Stopped, on_sigterm

T = TypeVar("T")
Item = TypeVar("Item")
Ts = TypeVarTuple("Ts")

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # workers stay in our working directory
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # the default minute is short on a crowded host
}
TOKEN = os.environ.get("RAY_AUTH_TOKEN", secrets.token_hex(32))  # who may call our private Ray: one per process
HTTP2_SETTINGS = b"\x04"
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + HTTP2_SETTINGS + bytes(5)
FOLDER = "tri-ray-"  # short: Ray's socket paths below it must stay under 107 characters


class RayLaunch:
    """N workers of a private Ray of this process, or of the cluster at `address`."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        self.workers = workers
        self.address = address
        self._gpu = torch.cuda.is_available()
        self._device = device_name()
        self._folder = Path()
        self._leave = ExitStack()
        if address is None:
            room = {"CPU": _cpus(), "GPU": torch.cuda.device_count()}
            _check_room(workers, self._gpu, room, "this machine has")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = stack.enter_context(_own_folder())
            stack.enter_context(_ray_environment(SETTINGS))
            if self.address is None:
                self._start(stack)
            else:
                self._join(stack, self.address)
            self._leave = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._leave.close()

    @property
    def description(self) -> dict[str, Any]:
        backend = "ray-local" if self.address is None else "ray-cluster"
        return {"backend": backend, "workers": self.workers, "device": self._device}

    def fit(self, loop: Callable[[Worker, *Ts], T], *args: *Ts) -> T:
        trainer = _Trainer(
            lambda: _run_loop(loop, args),
            scaling_config=ScalingConfig(num_workers=self.workers, use_gpu=self._gpu),
            run_config=RunConfig(
                name=f"fit-{uuid.uuid4().hex}",  # a name used before would resume that run
                storage_path=str(self._folder / "train"),
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
                logging_config=LoggingConfig(log_level="CRITICAL"),
            ),
        )
        try:
            with _stoppable():
                pickled = trainer.fit().return_value
            assert isinstance(pickled, bytes)
            return pickle.loads(pickled)
        except WorkerGroupError as error:
            failure = _first_failure(error.worker_failures, self.workers)
        except ControllerError as error:
            failure = LaunchError(f"Ray Train could not run the workers: {_one_line(error.controller_failure)}")
        raise failure

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
        call = ray.remote(_run_call).options(num_cpus=1, num_gpus=1 if self._gpu else 0)
        shared = ray.put(function)
        waiting: deque[ray.ObjectRef] = deque()
        running: list[ray.ObjectRef] = []
        try:
            for item in items:
                if len(running) == self.workers:
                    with _stoppable():
                        running = ray.wait(running, num_returns=1)[1]
                waiting.append(call.remote(shared, item))
                running.append(waiting[-1])
                while waiting[0] not in running:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            for task in waiting:
                ray.cancel(task)

    def _start(self, stack: ExitStack) -> None:
        os.environ["RAY_AUTH_TOKEN"] = TOKEN
        size = {"num_cpus": self.workers, "num_gpus": self.workers if self._gpu else 0}
        all_started = stack.enter_context(_reaper())
        stack.enter_context(_connected("local", include_dashboard=False, _temp_dir=str(self._folder), **size))
        all_started()

    def _join(self, stack: ExitStack, address: str) -> None:
        _check_reachable(address)
        try:
            stack.enter_context(_connected(address))
        except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"cannot join a Ray cluster at {address}: {_one_line(error)}") from error
        everything = ray.cluster_resources()
        models = [name.partition(":")[2] for name in everything if name.startswith("accelerator_type:")]
        self._gpu = everything.get("GPU", 0) > 0
        self._device = f"cuda:{'+'.join(sorted(models))}" if self._gpu else "cpu"
        _check_room(self.workers, self._gpu, everything, f"the cluster at {address} has")
        _wait_for_room(self.workers, self._gpu, address)


class PeerLostError(LaunchError):
    """A worker that noticed another one's end; the other one knows why."""


class _Trainer(TorchTrainer):
    def _register_sigint_handler(self, controller: Any) -> None:
        """Leaves Ctrl-C to Python: Ray's handler would outlive the fit, and end the process with status 0."""


@contextmanager
def _stoppable() -> Iterator[None]:
    """While Ray waits, it replaces what a handler of SIGTERM raises by a plain SystemExit(1)."""
    try:
        yield
    except SystemExit:
        raise Stopped from None


def _run_loop(loop: Callable[[Worker, *Ts], T], args: tuple[*Ts]) -> bytes | None:
    """On a worker. The result travels pickled: Ray Train refuses one that holds tensors."""
    rank, world = worker_context().get_world_rank(), worker_context().get_world_size()
    with reproducible(), _explained(f"on worker {rank} of {world}"):
        result = loop(Worker(rank, world, get_device(), _mean if world > 1 else None), *args)
        return pickle.dumps(result) if rank == 0 else None


def _run_call(function: Callable[[Item], T], item: Item) -> T:
    with reproducible(), _explained("in a Ray task"):
        return function(item)


def _mean(flat: Tensor) -> Tensor:
    try:
        distributed.all_reduce(flat)
    except RuntimeError as error:
        raise PeerLostError(f"lost the other workers: {_one_line(error)}") from error
    return flat.div_(distributed.get_world_size())


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Let an exception reach the driver as itself; its traceback does not travel, so it becomes a note."""
    try:
        yield
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        error.add_note(f"{where}:\n{''.join(traceback.format_list(frames)).rstrip()}")
        if _travels(error):
            raise
        raise LaunchError(f"{type(error).__name__}: {_one_line(error)}") from error


def _travels(error: BaseException) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except (TypeError, AttributeError, pickle.PickleError):
        return False
    return True


def _first_failure(failures: Mapping[int, Exception], world: int) -> Exception:
    """What the worker that failed of itself raised; the others only report that it is gone."""
    rank, failure = min(failures.items(), key=lambda item: (isinstance(item[1], PeerLostError), item[0]))
    if type(failure).__module__.startswith("ray."):
        return LaunchError(f"worker {rank} of {world} died: killed from outside, or out of memory")
    return failure


def _result(task: ray.ObjectRef) -> Any:
    try:
        with _stoppable():
            return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        failure = error.cause
    except ray.exceptions.RayError as error:
        failure = LaunchError(f"a Ray task died: {_one_line(error)}")
    raise failure


@contextmanager
def _connected(address: str, **settings: Any) -> Iterator[None]:
    """Quietly: what our own functions print arrives here, Ray's chatter stays in its log files.

    Ray changes the root logger and the handler of SIGTERM; both are put back, and SIGTERM ends in order here anyway.
    """
    root = logging.getLogger()
    level, handlers, before = root.level, root.handlers[:], signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    try:
        ray.init(address, logging_level=logging.ERROR, logging_config=ray.LoggingConfig(log_level="ERROR"), **settings)
        root.setLevel(level)
        root.handlers[:] = handlers
        if in_main_thread and before is signal.SIG_DFL:
            on_sigterm()
        elif in_main_thread:
            signal.signal(signal.SIGTERM, before)
        yield
    finally:
        ray.shutdown(wait_for_processes=True)
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _check_reachable(address: str) -> None:
    """Fail at once where Ray would try for half a minute, or for a quarter of an hour if something else listens there.

    A Ray cluster's main port speaks HTTP/2 (RFC 9113): the first frame of its answer is one of settings.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"{address!r} is no address of a Ray cluster: give host:port, or auto on its head node")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as probe:
            probe.sendall(HTTP2_GREETING)
            answer = probe.recv(9)
    except OSError as error:
        raise UserError(f"no Ray cluster answers at {address}: {error}") from error
    if answer[3:4] != HTTP2_SETTINGS:
        raise UserError(f"what answers at {address} is no Ray cluster: give the port of its head node, usually 6379")


def _check_room(workers: int, gpu: bool, room: Mapping[str, float], where: str) -> None:
    for kind in ("CPU", "GPU") if gpu else ("CPU",):
        if room.get(kind, 0) < workers:
            raise UserError(
                f"--workers {workers} needs as many {kind}s, but {where} {room.get(kind, 0):g}: ask for fewer"
            )


def _wait_for_room(workers: int, gpu: bool, address: str, timeout_seconds: float = 20) -> None:
    """A job that just ended gives its CPUs back after some seconds; one that goes on is an error here, not a queue."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return _check_room(workers, gpu, ray.available_resources(), f"the cluster at {address} has free")
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A fresh folder, removed at the end; if this process is killed, by the next one that makes such a folder."""
    parent = Path(tempfile.gettempdir())
    for folder in parent.glob(f"{FOLDER}*"):
        with suppress(OSError), (folder / "owner").open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    unseen = Path(tempfile.mkdtemp(prefix=f".{FOLDER}", dir=parent))
    with (unseen / "owner").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        folder = unseen.rename(parent / unseen.name[1:])
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _reaper() -> Iterator[Callable[[], None]]:
    """Ends the processes started from now until the callable is called: after this block, or when we are killed."""
    spared = [str(child.pid) for child in psutil.Process().children(recursive=True)]
    command = [sys.executable, "-m", "pipeline.reaper", str(os.getpid()), *spared]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) as reaper:
        yield lambda: print(file=reaper.stdin, flush=True)


@contextmanager
def _ray_environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(before)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
