"""The layers of small perceptrons: a first that hears some inputs once for many rows, hidden ones in any precision."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Later(nn.Linear):
    """A layer after the first: computes in the precision of its weights, whatever comes. hidden: not the last either,
    so that `train_stack` may lower its precision."""

    def __init__(self, inputs: int, outputs: int, hidden: bool = False) -> None:
        super().__init__(inputs, outputs)
        self.may_be_lowered = hidden

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(self.weight.dtype))


def first_layer(layer: nn.Module, *parts: Tensor) -> Tensor:
    """layer(parts side by side). Parts with fewer rows, said in turn to all, are multiplied once."""
    assert isinstance(layer, nn.Linear)
    rows = max(len(part) for part in parts)
    if all(len(part) == rows for part in parts):
        return layer(torch.cat(parts, 1))
    columns = layer.weight.split([part.shape[1] for part in parts], 1)
    whole, fewer = ([i for i, part in enumerate(parts) if (len(part) == rows) == full] for full in (True, False))
    said = F.linear(torch.cat([parts[i] for i in whole], 1), torch.cat([columns[i] for i in whole], 1), layer.bias)
    for i in fewer:
        said = (said.unflatten(0, (-1, len(parts[i]))) + F.linear(parts[i], columns[i])).flatten(0, 1)
    return said


@torch.no_grad()
def louden(layer: nn.Module, inputs: slice, factor: float) -> None:
    """Makes a linear layer weigh some of its inputs more, at initialisation."""
    assert isinstance(layer, nn.Linear)
    layer.weight[:, inputs] *= factor
