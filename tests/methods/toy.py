"""A small world for the tests of methods: labelled points, and a short training through the one loop."""

import torch
from torch import Tensor

from methods.core.loop import TrainState, train_steps
from methods.core.types import Batch, DataSpec, Trainable

STANDING = {"real_logit", "fake_logit", "real_spread", "fake_spread"}  # of every method with a discriminator
POINTS = DataSpec(shape=(2,), classes=3, std=1.0)
X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 3


def trained(method: Trainable, steps: int = 3, data: DataSpec = POINTS) -> tuple[TrainState, list[dict[str, Tensor]]]:
    """The state after `steps` steps of eight points each, and every step's metrics."""
    state = TrainState.fresh(method, data, seed=0)
    batches = [Batch(X[i : i + 8], LABELS[i : i + 8]) for i in range(0, 64, 8)]
    metrics = list(train_steps(method, state, lambda step: batches[step % 8], seed=0, batch=8, steps=steps))
    return state, metrics
