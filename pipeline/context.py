"""What a stage is given besides its inputs and settings: where and how it runs, which never changes its result."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    import numpy as np
    import torch

    from methods.core.loop import AllReduce


T = TypeVar("T")
Item = TypeVar("Item")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True)
class Worker:
    """One of `world` equal copies of a loop, and what it may use."""

    rank: int
    world: int
    device: "torch.device"
    all_reduce: "AllReduce | None"  # None when alone; works in place
    must_stop: Callable[[], bool] = lambda: False  # True on rank 0 only: save and raise `Interrupted` between steps
    ahead: Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]] = map  # in order, computed before it is used


class Launch(Protocol):
    """A context manager: entering starts what it needs, leaving stops it."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *raised: object) -> None: ...

    def fit(self, loop: Callable[[Worker, *Ts], T], *args: *Ts) -> T:
        """Run `loop(worker, *args)` on every worker; return the result of rank 0."""
        ...

    def fit_each(self, loop: Callable[[Worker, Item], T], items: Sequence[Item]) -> Iterator[T]:
        """As `map`, for small trainings: each item has a worker of its own, of rank 0 in a world of 1."""
        ...

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
        """One call per item, up to `workers` at a time, started as results are taken; in the order of the items."""
        ...

    @property
    def workers(self) -> int:
        """0: calls are made in this process."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """For the ledger: backend ("in-process", "ray-local", "ray-cluster"), workers, device."""
        ...


class State(Protocol):
    """Bytes by name that survive a kill and are removed when the stage is complete. Can be sent to other processes."""

    @property
    def key(self) -> str:
        """Of the result that is being computed."""
        ...

    def load(self, name: str) -> bytes | None: ...

    def save(self, name: str, data: bytes) -> None:
        """Replace `name` at once."""
        ...


class Watch(Protocol):
    """Shows progress and logs values. Can be sent to another process and `opened` there."""

    def opened(self) -> "AbstractContextManager[Watch]": ...

    def progress(self, done: int, total: int) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Of a training step."""
        ...

    def samples(self, key: str, images: "np.ndarray", step: int) -> None:
        """images: uint8 [n, C, H, W]."""
        ...

    def path(self, states: "np.ndarray") -> None:
        """Denoising: uint8 [steps, n, C, H, W]."""
        ...

    def results(self, values: Mapping[str, float]) -> None:
        """Final values, once, by "metric of-what"."""
        ...

    def note_cost(self, name: str, value: float) -> None:
        """A cost that only the stage can measure; kept in the ledger."""
        ...


@dataclass(frozen=True)
class RunContext:
    """The circumstances of one execution."""

    launch: Launch
    state: State
    watch: Watch
