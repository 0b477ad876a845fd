"""A loop on Ray Train: Ray starts N copies of our own and connects them.

It keeps no checkpoints (training state is in the store) and restarts nothing. When the driver receives SIGTERM or
Ctrl-C, or Ray announces the end of a worker's node (`ray start --block` does so at SIGTERM, and autoscalers for spot
machines), the worker of rank 0 saves and stops.

Three things here are private to Ray and may change: its key-value store and its list of draining nodes (the public way
to either, an actor and `ray.train.get_preemption_info`, costs a process per fit, the latter also a barrier per step),
and the callback that is left out.
"""

import os
import pickle
import re
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
import ray.exceptions
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray._private.state import state as cluster_state
from ray.cloudpickle.cloudpickle import dumps
from ray.experimental.internal_kv import _internal_kv_exists, _internal_kv_put
from ray.train import ControllerError, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train import get_context as worker_context
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import RayTrainCallback
from torch import Tensor, distributed

from pipeline.console import one_line
from pipeline.context import Item, T, Ts, Worker
from pipeline.errors import LaunchError
from pipeline.launch.determinism import reproducible
from pipeline.launch.ray_errors import no_gpu, pickled_errors, stoppable
from pipeline.launch.signals import GRACE_SECONDS, stop_postponed

PREFETCH_SHARDS = 4
POLL_SECONDS = 1.0  # of the request to stop
NO_GPU = ("no GPUs found", "NCCL built in", "at least one CUDA device")  # torch's messages when it is to connect none


def fit(loop: Callable[[Worker, *Ts], T], args: bytes, workers: int, gpus: bool) -> T:
    """What the worker of rank 0 returns. args: a pickled tuple."""
    name = f"fit-{uuid.uuid4().hex}"  # a name used before would resume that run
    trainer = _Trainer(
        lambda: _run_loop(name, loop, args),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
        run_config=RunConfig(
            name=name,
            storage_path="/fits",
            storage_filesystem=PyFileSystem(FSSpecHandler(MemoryFileSystem())),  # in memory: nothing is kept
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )
    with _stop_forwarded(name):
        try:
            with stoppable():
                pickled = trainer.fit().return_value
            assert isinstance(pickled, bytes)
            return pickle.loads(pickled)
        except WorkerGroupError as error:
            failure = _first_failure(error.worker_failures, workers)
        except ControllerError as error:
            failure = _no_start(error.controller_failure)
        except ray.exceptions.RayError as error:
            failure = LaunchError(f"Ray Train was lost: {one_line(error)}")
        raise failure


class PeerLostError(LaunchError):
    """Raised by a worker when another one ended, whose own error has the reason."""


class _Trainer(TorchTrainer):
    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        """Without the one that cleans up after a controller that Tune stopped: a process of its own, for seconds.

        When the driver dies, its job's placement group goes with it.
        """
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]

    def _register_sigint_handler(self, controller: Any) -> None:
        """Python handles Ctrl-C: Ray's handler would outlive the fit and end the process with status 0."""


@contextmanager
def _stop_forwarded(fit: str) -> Iterator[None]:
    """SIGTERM or Ctrl-C becomes a request to the workers; if they do not end in time, this process ends."""
    done = threading.Event()

    def forward(requested: threading.Event) -> None:
        while not requested.wait(POLL_SECONDS):
            if done.is_set():
                return
        with suppress(ray.exceptions.RayError):
            _internal_kv_put(fit, b"")
        if not done.wait(GRACE_SECONDS):
            os.kill(os.getpid(), signal.SIGTERM)

    with stop_postponed() as requested:
        threading.Thread(target=forward, args=(requested,), name="stop", daemon=True).start()
        try:
            yield
        finally:
            done.set()  # the request, a few bytes, stays: the cluster may be gone


def _stop_signal(fit: str, rank: int) -> Callable[[], bool]:
    """Whether rank 0 must stop: at a request by the driver, or by any worker whose node is about to end."""
    requested, node = threading.Event(), ray.get_runtime_context().get_node_id()

    def poll() -> None:
        while not _internal_kv_exists(fit):
            if node in cluster_state.get_draining_nodes():
                _internal_kv_put(fit, b"")
            requested.wait(POLL_SECONDS)
        requested.set()

    threading.Thread(target=poll, name="stop", daemon=True).start()
    return requested.is_set if rank == 0 else lambda: False


def _run_loop(fit: str, loop: Callable[..., T], args: bytes) -> bytes | None:
    """On a worker. The result is pickled, because Ray Train refuses one that holds tensors."""
    rank, world = worker_context().get_world_rank(), worker_context().get_world_size()
    with reproducible(), pickled_errors(f"on worker {rank} of {world}"):
        worker = Worker(rank, world, get_device(), _mean if world > 1 else None, _stop_signal(fit, rank), _prefetched)
        result = loop(worker, *pickle.loads(args))
        return dumps(result) if rank == 0 else None


def _prefetched(function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
    """As `map`, by Ray Data; with 0 CPUs, because all CPUs of a private Ray belong to its workers."""
    import ray.data  # takes seconds

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.execution_options.preserve_order = False, True
    context.print_on_execution_start = False
    rows = ray.data.from_items([{"item": dumps(item)} for item in items], override_num_blocks=len(items))
    results = rows.map(
        lambda row: {"result": dumps(function(pickle.loads(row["item"])))},
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(PREFETCH_SHARDS),
    )
    for row in results.iter_rows():
        yield pickle.loads(row["result"])


def _mean(flat: Tensor) -> Tensor:
    try:
        distributed.all_reduce(flat)
    except RuntimeError as error:
        raise PeerLostError(f"lost the other workers: {one_line(error)}") from error
    return flat.div_(distributed.get_world_size())


def _no_start(error: Exception) -> Exception:
    """The last line of Ray's message is the reason."""
    reason = str(error).strip().splitlines()[-1]
    if any(text in reason for text in NO_GPU):
        node = re.search(r"\bip=([\w.:]+)", str(error))
        return no_gpu(node[1] if node else "of a worker")
    return LaunchError(f"Ray Train could not run the workers: {reason}")


def _first_failure(failures: Mapping[int, Exception], world: int) -> Exception:
    """The error of the worker that failed first; the others only report that they lost it."""
    rank, failure = min(failures.items(), key=lambda item: (isinstance(item[1], PeerLostError), item[0]))
    if type(failure).__module__.startswith("ray."):
        return LaunchError(f"worker {rank} of {world} died: killed from outside, or out of memory")
    return failure
