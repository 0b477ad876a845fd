"""Small data for the tests of methods: labelled points, a short training through the one loop, two workers."""

from collections.abc import Callable
from threading import Barrier, Thread

import torch
from torch import Tensor

from methods.core.loop import AllReduce, TrainState, train_steps
from methods.core.rng import rows_of_worker
from methods.core.types import Batch, DataSpec, Trainable

COLLAPSE_STATISTICS = {"real_logit", "fake_logit", "real_spread", "fake_spread"}  # of every method with a discriminator
POINTS = DataSpec(shape=(2,), classes=3, std=1.0)
X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 3


def trained(method: Trainable, steps: int = 3, data: DataSpec = POINTS) -> tuple[TrainState, list[dict[str, Tensor]]]:
    """The state after `steps` steps of 16 points each, and every step's metrics."""
    state = TrainState.fresh(method, data, seed=0)
    batches = [Batch(X[i : i + 16], LABELS[i : i + 16]) for i in range(0, 64, 16)]
    metrics = list(train_steps(method, state, lambda step: batches[step % 4], seed=0, batch=16, steps=steps))
    return state, metrics


def shared(batches: Callable[[int], Batch], batch: int, rank: int, world: int) -> Callable[[int], Batch]:
    """A worker's rows of each batch."""
    rows = rows_of_worker(batch, rank, world)
    return lambda step: batches(step).each(lambda part: part[rows.start : rows.stop])


def in_lockstep(work: Callable[[int, AllReduce], object]) -> None:
    """Two workers in two threads, meeting at every all-reduce; work: of a rank and its all-reduce."""
    barrier, parts = Barrier(2), [torch.empty(0), torch.empty(0)]

    def reduce(rank: int) -> AllReduce:
        def mean(mine: Tensor) -> Tensor:
            parts[rank] = mine
            barrier.wait()
            total = (parts[0] + parts[1]) / 2
            barrier.wait()
            return total

        return mean

    threads = [Thread(target=work, args=(rank, reduce(rank))) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
