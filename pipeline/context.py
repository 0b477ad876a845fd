"""How and where a stage runs; no result depends on it."""

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
    """One of `world` equal copies of a loop, and its device."""

    rank: int
    world: int
    device: "torch.device"
    all_reduce: "AllReduce | None"  # None when alone; works in place
    must_stop: Callable[[], bool] = lambda: False  # rank 0 only; then save and raise `Interrupted`
    ahead: Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]] = map  # `map`, computed in advance


class Launch(Protocol):
    """Runs functions in this process or on workers, which start and stop with its context."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *raised: object) -> None: ...

    def fit(self, loop: Callable[[Worker, *Ts], T], *args: *Ts) -> T:
        """Run `loop(worker, *args)` on every worker; return the result of rank 0."""
        ...

    def fit_each(self, loop: Callable[[Worker, Item], T], items: Sequence[Item]) -> Iterator[T]:
        """As `map`, for small trainings: each item has a worker of its own, with rank 0 in a world of 1."""
        ...

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
        """Results in the order of the items; up to `workers` calls at a time, started as results are taken."""
        ...

    @property
    def workers(self) -> int:
        """How many processes run calls; 0: this process."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """For the ledger: backend ("in-process", "ray-local", "ray-cluster"), workers, device."""
        ...


class State(Protocol):
    """Bytes by name that survive a kill and are removed when the stage is complete. Can be pickled."""

    @property
    def key(self) -> str:
        """The key of the result that is being computed."""
        ...

    def load(self, name: str) -> bytes | None: ...

    def save(self, name: str, data: bytes) -> None:
        """Replace `name` atomically."""


class Watch(Protocol):
    """Shows progress and logs values. Can be pickled, and `opened` in another process."""

    def opened(self) -> "AbstractContextManager[Watch]": ...

    def progress(self, done: int, total: int) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Metrics of a training step, by name."""

    def samples(self, key: str, images: "np.ndarray", step: int) -> None:
        """images: uint8 [n, C, H, W]."""

    def path(self, states: "np.ndarray") -> None:
        """states: denoising paths, uint8 [steps, n, C, H, W]."""

    def results(self, values: Mapping[str, float]) -> None:
        """Final values, once; names are "metric subject"."""

    def note_cost(self, name: str, value: float) -> None:
        """A cost that only the stage can measure; kept in the ledger."""


@dataclass(frozen=True)
class RunContext:
    """How one execution of a stage runs, keeps its state and reports."""

    launch: Launch
    state: State
    watch: Watch
