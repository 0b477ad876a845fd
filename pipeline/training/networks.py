"""Networks of a trained artifact: saved as safetensors, rebuilt by the method that made them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from methods.core.types import DataSpec, Trainable
from pipeline.errors import TrilemmaError

FILE = "weights.safetensors"


def save_weights(folder: Path, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    flat = {f"{net}/{name}": value.contiguous() for net, values in weights.items() for name, value in values.items()}
    save_file(flat, folder / FILE)


def load_weights(folder: Path, device: torch.device | str = "cpu") -> dict[str, dict[str, Tensor]]:
    """By network and name."""
    weights: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / FILE, device=str(device)).items():
        net, _, name = key.partition("/")
        weights.setdefault(net, {})[name] = value
    return weights


def load_networks(
    folder: Path,
    method: Trainable,
    data: DataSpec,
    device: torch.device,
    given: Mapping[str, nn.Module] | None = None,
) -> dict[str, nn.Module]:
    """Ready to sample with: weights loaded, evaluation mode, nothing to be trained. given: networks ready already."""
    weights, nets, ready = load_weights(folder, device), method.build(data), dict(given or {})
    for name in nets.keys() - ready.keys():
        own = weights.get(name, {})
        _check_shapes(own, nets[name].state_dict(), f"{folder / FILE}: {name}")
        dtype = next(value.dtype for value in own.values() if value.is_floating_point())
        nets[name].to(device, dtype).eval().requires_grad_(False)
        nets[name].load_state_dict(own)
    return nets | ready


def _check_shapes(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        came, needed = (list(of[name].shape) if name in of else "nothing" for of in (found, wanted))
        if came != needed:
            raise TrilemmaError(
                f"{where}: {name} is {came}, {needed} was wanted: it was trained with another `model` block or code"
            )


def data_spec(facts: Mapping[str, Any]) -> DataSpec:
    """From what `prepare` noted of its data."""
    return DataSpec(tuple(facts["shape"]), facts["classes"], facts["std"])
