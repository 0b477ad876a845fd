"""Layers of small perceptrons: a first layer with inputs shared by many rows, hidden layers in any precision."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CastLinear(nn.Linear):
    """A layer after the first: computes in the precision of its weights, whatever the input's.

    hidden: not the last layer either, so `train_stack` may lower its precision.
    """

    def __init__(self, inputs: int, outputs: int, hidden: bool = False) -> None:
        super().__init__(inputs, outputs)
        self.may_be_lowered = hidden

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.to(self.weight.dtype))


def first_layer(layer: nn.Module, *parts: Tensor) -> Tensor:
    """layer(concatenated parts). The rows of a shorter part repeat cyclically; they are multiplied once."""
    assert isinstance(layer, nn.Linear)
    rows = max(len(part) for part in parts)
    if all(len(part) == rows for part in parts):
        return layer(torch.cat(parts, 1))
    columns = layer.weight.split([part.shape[1] for part in parts], 1)
    full, shorter = ([i for i, part in enumerate(parts) if (len(part) == rows) == is_full] for is_full in (True, False))
    output = F.linear(torch.cat([parts[i] for i in full], 1), torch.cat([columns[i] for i in full], 1), layer.bias)
    for i in shorter:
        output = (output.unflatten(0, (-1, len(parts[i]))) + F.linear(parts[i], columns[i])).flatten(0, 1)
    return output


@torch.no_grad()
def scale_weights(layer: nn.Module, inputs: slice, factor: float) -> None:
    """Multiplies a linear layer's initial weights of some inputs by `factor`."""
    assert isinstance(layer, nn.Linear)
    layer.weight[:, inputs] *= factor
