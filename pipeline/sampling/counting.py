"""Count how often networks are evaluated; convert samples to the type in which they are stored."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from torch import Tensor, nn

from methods.core.pixels import to_uint8
from methods.core.types import DataSpec


def as_stored(samples: Tensor, data: DataSpec) -> np.ndarray:
    """samples: float [n, *shape]. Images in [-1, 1] become uint8; points and latents float32."""
    is_image = len(data.shape) == 3 and data.latents is None
    return (to_uint8(samples) if is_image else samples.float()).numpy()


@contextmanager
def counting(nets: Mapping[str, list[nn.Module]]) -> Iterator[dict[str, int]]:
    """Counts the rows that pass through the networks of each name: evaluations are counted, never computed."""
    rows = dict.fromkeys(nets, 0)

    def count(name: str, batch: Tensor) -> None:
        rows[name] += len(batch)

    handles = [
        net.register_forward_hook(lambda _net, inputs, _output, name=name: count(name, inputs[0]))
        for name, group in nets.items()
        for net in group
    ]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
