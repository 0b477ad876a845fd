"""What a little of some work takes: seconds, floating point operations and memory, of training steps and of tiles."""

import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from methods.core.devices import current_device
from methods.core.rng import SeededRng
from methods.core.types import Batch

MIB = 2**20
WARM = 4  # steps or calls before the clock counts, and a multiple of which it counts: lazy terms come every 4th step
CLEAR = Path("/proc/self/clear_refs")  # Linux: writing 5 makes the peak begin anew


class Enough(Exception):
    """Ends a probe from inside the work."""


class Spent(NamedTuple):
    """Seconds: of this process, and of the device where that is a GPU."""

    cpu: float
    gpu: float

    @classmethod
    def now(cls) -> "Spent":
        """Differences of two count; waits for the device."""
        on_gpu = current_device().type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()
        return cls(time.process_time(), time.perf_counter() if on_gpu else 0.0)

    def since(self, before: "Spent") -> "Spent":
        return Spent(self.cpu - before.cpu, self.gpu - before.gpu)

    def plus(self, other: "Spent", times: float = 1.0) -> "Spent":
        return Spent(self.cpu + times * other.cpu, self.gpu + times * other.gpu)

    def times(self, factor: float) -> "Spent":
        return Spent(self.cpu * factor, self.gpu * factor)


@dataclass
class Peak:
    """MiB that the work inside needed beyond what there was: of the device that computes."""

    mib: float = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        if current_device().type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            yield
            self.mib = max(self.mib, (torch.cuda.max_memory_allocated() - before) / MIB)
            return
        gc.collect()
        if CLEAR.exists():
            ctypes.CDLL(None).malloc_trim(0)  # what was freed before would hide what is needed now
            CLEAR.write_text("5")
        before = psutil.Process().memory_info().rss
        yield
        self.mib = max(self.mib, (_highest() - before) / MIB)


def _highest() -> int:
    """Bytes that were resident at most since the peak last began."""
    if not CLEAR.exists():
        return psutil.Process().memory_info().rss
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@dataclass
class Clock:
    """Batches that note when they are asked for, so that a training tells the time of its steps; then `Enough`.

    rows: of each batch, if fewer are wanted than it has.
    """

    batches: Callable[..., Batch]
    rows: int
    seconds: float  # of counted steps, after which it is enough
    most: float = float("inf")  # steps
    marks: list[Spent] = field(default_factory=list)

    def __call__(self, *which: int) -> Batch:
        """which: the step; in a stack the training seed, then the step."""
        if which[-1] == len(self.marks):
            self.marks.append(Spent.now())
            taken, counted = len(self.marks) - 1, len(self.marks) - 1 - WARM
            if taken >= self.most or (counted > 0 and counted % WARM == 0 and sum(self._counted()) >= self.seconds):
                raise Enough
        return self.batches(*which).each(lambda part: part[: self.rows])

    def cut(self, batches: Callable[[int], Batch] | None) -> Callable[[int], Batch] | None:
        """Others, with as many rows."""
        return None if batches is None else lambda step: batches(step).each(lambda part: part[: self.rows])

    def _counted(self) -> Spent:
        return self.marks[-1].since(self.marks[min(WARM, len(self.marks) - 1)])

    @property
    def step(self) -> Spent:
        """The mean of the counted steps, or of all if it ended earlier."""
        counted = len(self.marks) - 1 - WARM
        if counted > 0:
            return self._counted().times(1 / counted)
        return self.marks[-1].since(self.marks[0]).times(1 / max(len(self.marks) - 1, 1))


class Flops(TorchDispatchMode):
    """Floating point operations of what runs inside. torch's own FlopCounterMode fails at gradients of gradients."""

    total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=made)
        return made


class Tile(NamedTuple):
    """What 64 samples take."""

    spent: Spent
    calls: int  # of the generator's networks per sample
    flops: float
    mib: float


def tile(paint: Callable[[], object], one: Callable[[], object], nets: Mapping[str, nn.Module], seconds: float) -> Tile:
    """paint: makes a tile; one: a single sample, unguided, by the same settings. A tile that takes longer than
    `seconds` is not finished: its calls are alike."""
    with _recalled(nets), _calling(nets) as called:
        one()
    total, peak = called[0], Peak()
    with Flops() as flops, suppress(Enough), _calling(nets, most=WARM) as called:
        paint()
    floating = flops.total / max(called[0], 1) * total
    begin, rounds = Spent.now(), 0
    with peak.watching(), suppress(Enough), _calling(nets, seconds) as called:
        begin = Spent.now()  # again: clearing up before a peak is watched takes a third of a second
        while rounds == 0 or sum(Spent.now().since(begin)) < seconds / 4:
            paint()
            rounds += 1
    spent = Spent.now().since(begin).times(total / called[0])
    return Tile(spent, total, floating, peak.mib)


@contextmanager
def _calling(
    nets: Mapping[str, nn.Module], seconds: float = float("inf"), most: float = float("inf")
) -> Iterator[list[int]]:
    """Counts calls; `Enough` before the one that would go beyond."""
    called, begin = [0], Spent.now()

    def count(*_: Any) -> None:
        if called[0] >= most or (called[0] >= WARM and sum(Spent.now().since(begin)) > seconds):
            raise Enough
        called[0] += 1

    handles = [net.register_forward_pre_hook(count) for net in nets.values()]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _recalled(nets: Mapping[str, nn.Module]) -> Iterator[None]:
    """Networks that compute once and say the same again: how often they are asked does not depend on what they say."""

    def recalling(forward: Callable[..., Any]) -> Callable[..., Any]:
        said: list[Any] = []

        def recall(*given: Any, **named: Any) -> Any:
            if not said:
                said.append(forward(*given, **named))
            return said[0]

        return recall

    for net in nets.values():
        net.forward = recalling(net.forward)
    try:
        yield
    finally:
        for net in nets.values():
            del net.forward


def first_of(method: Any, nets: Mapping[str, nn.Module], sampling: Any, classes: int) -> Callable[[], object]:
    """A single sample, for `tile`."""
    device = next(next(iter(nets.values())).parameters()).device
    labels = torch.zeros(1, dtype=torch.int64, device=device) if classes else None

    @torch.no_grad()
    def sample() -> object:
        return method.sample(nets, sampling, labels, SeededRng(range(1), device))

    return sample
