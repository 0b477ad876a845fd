"""Count how often networks are evaluated."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from torch import Tensor, nn

from methods.core.pixels import to_uint8
from methods.core.types import DataSpec


def stored(images: Tensor, data: DataSpec) -> np.ndarray:
    """As shards keep them: pictures as uint8, points as float32."""
    return (to_uint8(images) if len(data.shape) == 3 else images.float()).numpy()


@contextmanager
def counting(nets: Mapping[str, list[nn.Module]]) -> Iterator[dict[str, int]]:
    """Counts the rows that pass through the networks of each name: evaluations are counted, never computed."""
    rows = dict.fromkeys(nets, 0)

    def count(name: str, rows_of: Tensor) -> None:
        rows[name] += len(rows_of)

    handles = [
        net.register_forward_hook(lambda _net, given, _made, name=name: count(name, given[0]))
        for name, group in nets.items()
        for net in group
    ]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
