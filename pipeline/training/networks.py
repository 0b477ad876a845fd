"""Networks of a trained artifact: saved as safetensors, rebuilt by the method that made them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from methods.core.types import DataSpec, Latents, Parent, Trainable
from pipeline.config.build import build_method
from pipeline.data.artifacts import Artifact
from pipeline.errors import TrilemmaError

FILE = "weights.safetensors"
EMPTY: Mapping[str, nn.Module] = {}


def save_weights(folder: Path, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    flat = {f"{net}/{name}": value.contiguous() for net, values in weights.items() for name, value in values.items()}
    save_file(flat, folder / FILE)


def load_weights(folder: Path, device: torch.device | str = "cpu") -> dict[str, dict[str, Tensor]]:
    """Tensors by network and parameter name."""
    weights: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / FILE, device=str(device)).items():
        net, _, name = key.partition("/")
        weights.setdefault(net, {})[name] = value
    return weights


def load_networks(
    folder: Path, method: Trainable, data: DataSpec, device: torch.device, ready: Mapping[str, nn.Module] = EMPTY
) -> dict[str, nn.Module]:
    """Networks in evaluation mode, no gradients; TrilemmaError for weights of another shape. ready: loaded before."""
    weights, nets = load_weights(folder, device), method.build(data)
    for name in nets.keys() - ready.keys():
        own = weights.get(name, {})
        _check_shapes(own, nets[name].state_dict(), f"{folder / FILE}: {name}")
        dtype = next(value.dtype for value in own.values() if value.is_floating_point())
        nets[name].to(device, dtype).eval().requires_grad_(False)
        nets[name].load_state_dict(own)
    return nets | dict(ready)


def load_run(artifact: Artifact, data: DataSpec) -> Parent:
    """A trained or imported run, on the CPU."""
    config = artifact.manifest.config
    method = build_method(config["method"], config["model"])
    return Parent(method, load_networks(artifact.path, method, data, torch.device("cpu")))


def is_captioned(method: Trainable) -> bool:
    """Whether it is conditioned on captions, in place of classes."""
    return bool(getattr(method, "text", False))


def _check_shapes(saved: Mapping[str, Tensor], built: Mapping[str, Tensor], where: str) -> None:
    for name in sorted(saved.keys() | built.keys()):
        came, needed = (list(of[name].shape) if name in of else "nothing" for of in (saved, built))
        if came != needed:
            raise TrilemmaError(
                f"{where}: {name} is {came}, {needed} was wanted: it was trained with another `model` block or code"
            )


def data_spec(facts: Mapping[str, Any]) -> DataSpec:
    """facts: of prepared data, or of a run trained on them."""
    text = facts.get("vocabulary", 0), facts.get("tokens", 0)
    of = facts.get("latents")
    latents = None if of is None else Latents(of["encoder"], tuple(of["mean"]), tuple(of["std"]))
    attributes = tuple(facts.get("attributes", ()))
    return DataSpec(tuple(facts["shape"]), facts["classes"], facts["std"], attributes, *text, latents)


def data_facts(data: DataSpec) -> dict[str, Any]:
    """The facts that `data_spec` reads; without those of attributes, captions and latents, where there are none."""
    optional = {"attributes": list(data.attributes), "vocabulary": data.vocabulary, "tokens": data.tokens}
    optional |= {"latents": data.latents and data.latents._asdict()}
    required = {"shape": list(data.shape), "classes": data.classes, "std": data.std}
    return required | {name: value for name, value in optional.items() if value}
