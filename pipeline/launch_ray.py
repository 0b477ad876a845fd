"""Ray Train for loops, Ray tasks for fan-out; with `launch_cluster`, all that knows Ray.

Ray starts N copies of our own loop and connects them. It keeps no checkpoints (training state lives in the store) and
restarts nothing.
"""

import os
import pickle
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar, TypeVarTuple

import ray
import ray.exceptions
import torch
from ray.cloudpickle.cloudpickle import dumps
from ray.train import ControllerError, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train import get_context as worker_context
from ray.train.torch import TorchTrainer, get_device
from torch import Tensor, distributed

from pipeline.launch import LaunchError, Worker, device_name, reproducible
from pipeline.launch_cluster import (
    check_room,
    joined_cluster,
    machine_room,
    one_line,
    own_folder,
    private_ray,
    stoppable,
    wait_for_room,
)
from pipeline.travel import packed

T = TypeVar("T")
Item = TypeVar("Item")
Ts = TypeVarTuple("Ts")

AHEAD = 4  # shards read at a time


class RayLaunch:
    """N workers of a private Ray of this process, or of the cluster at `address`; each with a GPU if there are any."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        self.workers = workers
        self.address = address
        self._gpus = torch.cuda.is_available()
        self._device = device_name()
        self._folder = Path()
        self._leave = ExitStack()
        if address is None:
            check_room(workers, machine_room(torch.cuda.device_count()), "this machine has", self._gpus)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = stack.enter_context(own_folder())
            if self.address is None:
                stack.enter_context(private_ray(self._folder, self.workers, self.workers if self._gpus else 0))
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

    @property
    def _store(self) -> str | None:
        """Where a machine that does not share our disk finds artifacts."""
        return os.environ.get("TRILEMMA_STORE") if self.address else None

    def fit(self, loop: Callable[[Worker, *Ts], T], *args: *Ts) -> T:
        assert ray.is_initialized(), "fit outside of `with launcher(...)`"
        sent = packed(args, self._store)
        trainer = _Trainer(
            lambda: _run_loop(loop, sent),
            scaling_config=ScalingConfig(num_workers=self.workers, use_gpu=self._gpus),
            run_config=RunConfig(
                name=f"fit-{uuid.uuid4().hex}",  # a name used before would resume that run
                storage_path=str(self._folder / "train"),
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
                logging_config=LoggingConfig(log_level="CRITICAL"),
            ),
        )
        try:
            with stoppable():
                pickled = trainer.fit().return_value
            assert isinstance(pickled, bytes)
            return pickle.loads(pickled)
        except WorkerGroupError as error:
            failure = _first_failure(error.worker_failures, self.workers)
        except ControllerError as error:
            failure = LaunchError(f"Ray Train could not run the workers: {one_line(error.controller_failure)}")
        raise failure

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
        assert ray.is_initialized(), "map outside of `with launcher(...)`"
        call = ray.remote(_run_call).options(num_cpus=1, num_gpus=1 if self._gpus else 0)
        shared = ray.put(function)
        waiting: deque[ray.ObjectRef] = deque()
        running: list[ray.ObjectRef] = []
        try:
            for item in items:
                if len(running) == self.workers:
                    with stoppable():
                        running = ray.wait(running, num_returns=1)[1]
                waiting.append(call.remote(shared, packed(item, self._store)))
                running.append(waiting[-1])
                while waiting[0] not in running:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            for task in waiting if ray.is_initialized() else ():
                ray.cancel(task)

    def _join(self, stack: ExitStack, address: str) -> None:
        room = stack.enter_context(joined_cluster(address))
        models = [name.partition(":")[2] for name in room if name.startswith("accelerator_type:")]
        self._gpus = room.get("GPU", 0) > 0
        self._device = f"cuda:{'+'.join(sorted(models))}" if self._gpus else "cpu"
        check_room(self.workers, room, f"the cluster at {address} has", self._gpus)
        wait_for_room(self.workers, f"the cluster at {address}", self._gpus)


class PeerLostError(LaunchError):
    """A worker that noticed another one's end; the other one knows why."""


class _Trainer(TorchTrainer):
    def _register_sigint_handler(self, controller: Any) -> None:
        """Leaves Ctrl-C to Python: Ray's handler would outlive the fit, and end the process with status 0."""


def _run_loop(loop: Callable[..., T], args: bytes) -> bytes | None:
    """On a worker. The result travels pickled: Ray Train refuses one that holds tensors."""
    rank, world = worker_context().get_world_rank(), worker_context().get_world_size()
    with reproducible(), _explained(f"on worker {rank} of {world}"):
        worker = Worker(rank, world, get_device(), _mean if world > 1 else None, ahead=_ahead)
        result = loop(worker, *pickle.loads(args))
        return dumps(result) if rank == 0 else None


def _run_call(function: Callable[[Item], T], item: bytes) -> T:
    with reproducible(), _explained("in a Ray task"):
        return function(pickle.loads(item))


def _ahead(function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
    """By Ray Data. No CPU is asked for: a private Ray has as many as it has workers."""
    import ray.data  # takes seconds

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.execution_options.preserve_order = False, True
    context.print_on_execution_start = False
    rows = ray.data.from_items([{"item": dumps(item)} for item in items], override_num_blocks=len(items))
    made = rows.map(
        lambda row: {"made": dumps(function(pickle.loads(row["item"])))},
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(AHEAD),
    )
    for row in made.iter_rows():
        yield pickle.loads(row["made"])


def _mean(flat: Tensor) -> Tensor:
    try:
        distributed.all_reduce(flat)
    except RuntimeError as error:
        raise PeerLostError(f"lost the other workers: {one_line(error)}") from error
    return flat.div_(distributed.get_world_size())


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Let an exception reach the driver as itself; its traceback does not travel, so it becomes a note."""
    try:
        yield
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)[2:]  # without this file's
        traveller = error if _travels(error) else LaunchError(f"{type(error).__name__}: {one_line(error)}")
        traveller.add_note(f"{where}:\n{''.join(traceback.format_list(frames)).rstrip()}")
        raise traveller from None


def _travels(error: BaseException) -> bool:
    try:
        pickle.loads(dumps(error))
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
        with stoppable():
            return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        failure = error.cause
    except ray.exceptions.RayError as error:
        failure = LaunchError(f"a Ray task died: {one_line(error)}")
    raise failure
