"""Run a function in this process, on Ray Train, or as Ray tasks.

torch, which costs seconds and a third of a gigabyte, is not imported here: a stage that needs it has imported it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Self

from pipeline.context import Item, Launch, T, Ts, Worker
from pipeline.errors import UserError
from pipeline.launch.determinism import device_name, reproducible
from pipeline.launch.signals import run_as_only_worker


def launcher(workers: int = 0, address: str | None = None, check: Callable[[], None] | None = None) -> Launch:
    """workers 0: plain calls in this process; N: a private local Ray, or with an address N workers of that cluster.

    check: called on the workers, before and after each function, as they load code later than this process.
    """
    if workers < 0:
        raise UserError(f"{workers} workers: 0 runs in this process, N starts N Ray workers")
    if workers == 0:
        if address is not None:
            raise UserError(f"the cluster at {address} was given but no workers: say how many with --workers")
        return InProcess()
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # read when Ray is imported: 1 would hold back progress lines
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # otherwise Ray would not send the token
    from pipeline.launch.ray_tasks import RayLaunch  # here, so that a run without workers never imports Ray

    return RayLaunch(workers, address, check)


class InProcess:
    """Plain calls, where a breakpoint works."""

    workers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def fit(self, loop: Callable[[Worker, *Ts], T], *args: *Ts) -> T:
        with reproducible():
            return run_as_only_worker(loop, *args)

    def fit_each(self, loop: Callable[[Worker, Item], T], items: Sequence[Item]) -> Iterator[T]:
        return self.map(partial(run_as_only_worker, loop), items)

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
        for item in items:
            with reproducible():
                result = function(item)
            yield result

    @property
    def description(self) -> dict[str, Any]:
        return {"backend": "in-process", "workers": 0, "device": device_name()}
