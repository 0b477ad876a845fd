"""Runs functions as Ray tasks, and through `ray_train` loops on Ray Train."""

import os
import pickle
import platform
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Self

import ray
import ray.exceptions
import torch

from pipeline.console import one_line
from pipeline.context import Item, T, Ts, Worker
from pipeline.errors import LaunchError
from pipeline.launch.cluster import check_room, joined_cluster, machine_room, own_folder, private_ray, wait_for_room
from pipeline.launch.determinism import device_name, reproducible
from pipeline.launch.ray_errors import no_gpu, pickled_errors, stoppable
from pipeline.launch.signals import run_as_only_worker
from pipeline.launch.transfer import pickle_with_artifacts


class RayLaunch:
    """N workers of a private Ray, or of the cluster at `address`; each has a GPU if there are any."""

    def __init__(self, workers: int, address: str | None = None, check: Callable[[], None] | None = None) -> None:
        self.workers = workers
        self.address = address
        self._check = check
        self._gpus = torch.cuda.is_available()
        self._device = device_name()
        self._leave = ExitStack()
        if address is None:
            check_room(workers, machine_room(torch.cuda.device_count()), "this machine has", self._gpus)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self.address is None:
                folder = stack.enter_context(own_folder())
                stack.enter_context(private_ray(folder, self.workers, self.workers if self._gpus else 0))
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
        """From which a machine that does not share this disk takes artifacts."""
        return os.environ.get("TRILEMMA_STORE") if self.address else None

    def fit(self, loop: Callable[[Worker, *Ts], T], *args: *Ts) -> T:
        assert ray.is_initialized(), "fit outside of `with launcher(...)`"
        from pipeline.launch.ray_train import fit  # here: it takes half a second, and `map` does not need it

        checked = partial(_checked_loop, self._check, loop)
        return fit(checked, pickle_with_artifacts(args, self._store), self.workers, self._gpus)

    def fit_each(self, loop: Callable[[Worker, Item], T], items: Sequence[Item]) -> Iterator[T]:
        return self.map(partial(run_as_only_worker, loop), items)

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
        assert ray.is_initialized(), "map outside of `with launcher(...)`"
        call = ray.remote(_run_call).options(num_cpus=1, num_gpus=1 if self._gpus else 0)
        shared = ray.put(partial(_checked, self._check, function))
        waiting: deque[ray.ObjectRef] = deque()
        running: list[ray.ObjectRef] = []
        try:
            for item in items:
                if len(running) == self.workers:
                    with stoppable():
                        running = ray.wait(running, num_returns=1)[1]
                waiting.append(call.remote(shared, pickle_with_artifacts(item, self._store)))
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


def _checked(check: Callable[[], None] | None, function: Callable[[*Ts], T], *args: *Ts) -> T:
    if check is None:
        return function(*args)
    check()
    result = function(*args)
    check()
    return result


def _checked_loop(check: Callable[[], None] | None, loop: Callable[[Worker, *Ts], T], worker: Worker, *args: *Ts) -> T:
    """What the loop computes in advance runs in other processes, which are checked too."""

    def ahead(function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
        return worker.ahead(partial(_checked, check, function), items)

    return _checked(check, loop, replace(worker, ahead=ahead), *args)


def _run_call(function: Callable[[Item], T], item: bytes) -> T:
    if ray.get_gpu_ids() and not torch.cuda.is_available():
        raise no_gpu(platform.node())
    with reproducible(), pickled_errors("in a Ray task"):
        return function(pickle.loads(item))


def _result(task: ray.ObjectRef) -> Any:
    try:
        with stoppable():
            return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        failure = error.cause
    except ray.exceptions.RayError as error:
        failure = LaunchError(f"a Ray task died: {one_line(error)}")
    raise failure
