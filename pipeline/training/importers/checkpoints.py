"""Load published checkpoints into this project's networks: no code is executed, every name and shape is checked.

The entry's method and model build the networks; their parameters must be exactly those of the file.
"""

import io
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.config.build import Block
from pipeline.errors import UserError
from pipeline.training.importers.module_pickle import Pickled, read_module

Format = Literal["edm", "adm", "iddpm", "ddgan", "dg"]
NETS: dict[str, tuple[str, ...]] = {  # the network that the file holds, by format
    "edm": ("denoiser",),
    "adm": ("denoiser", "classifier"),
    "iddpm": ("denoiser",),
    "ddgan": ("generator",),
    "dg": ("discriminator",),
}
PREFIX, OFFICIAL_PREFIX = "body.", {"edm": "model."}  # of parameter names
CLASSES = f"{PREFIX}label_emb.weight"
RECOMPUTED = ("resample_filter", "u")  # buffers of official networks that these compute


def read_checkpoint(file: Path, format: Format) -> Pickled:
    """Tensors by official name, and the metadata of the network; UserError if the file is not readable.

    EDM: the averaged network of a `.pkl`; others: a flat dictionary of tensors, or one under `ema`, `netG_dict` or
    `state_dict`, as torch.save writes it.
    """
    content = file.read_bytes()
    if format == "edm":
        return read_module(content, str(file))
    try:
        loaded = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # a hostile file may raise anything; nothing of it was executed
        first = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{file} is not a readable checkpoint of tensors alone: {first}") from None
    for name in ("ema", "netG_dict", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()) or not loaded:
        raise UserError(f"{file} holds no dictionary of tensors")
    return Pickled("", {}, {str(name).removeprefix("module."): value for name, value in loaded.items()})


def fit(read: Pickled, format: Format, nets: Mapping[str, nn.Module], where: str) -> dict[str, dict[str, Tensor]]:
    """The file's tensors by the names of the network; UserError for a missing or surplus one or another shape."""
    role = next((name for name in NETS[format] if name in nets), None)
    if role is None:
        raise UserError(f"{where}: a checkpoint of {format} has a {' or '.join(NETS[format])}, this method has none")
    wanted = nets[role].state_dict()
    prefix = PREFIX if all(name.startswith(PREFIX) for name in wanted) else ""
    official = OFFICIAL_PREFIX.get(format, "")
    given = {f"{prefix}{name.removeprefix(official)}": value for name, value in read.tensors.items()}
    if format == "dg" and CLASSES in given and CLASSES in wanted:  # released heads have a row for each of 1000 classes
        given[CLASSES] = given[CLASSES][: len(wanted[CLASSES])]
    surplus = [name for name in given if name not in wanted and name.rpartition(".")[2] not in RECOMPUTED]
    missing = [name for name in wanted if name not in given]
    for kind, names, others in (("more", surplus, list(wanted)), ("no", missing, list(given))):
        if names:
            near = get_close_matches(names[0], others, n=1)
            about = f" (near {near[0]})" if near else ""
            raise UserError(
                f"{where} has {kind} {names[0]}{about}, {len(names)} such: does the entry's model fit the file?"
            )
    for name, value in wanted.items():
        if given[name].shape != value.shape:
            raise UserError(
                f"{where}: {name} has shape {list(given[name].shape)}, but the entry's model {list(value.shape)}"
            )
        if not given[name].isfinite().all():
            raise UserError(f"{where}: {name} holds NaN or infinity")
    return {role: {name: given[name].to(value.dtype).contiguous() for name, value in wanted.items()}}


def model_of(read: Pickled) -> Block:
    """The `model` block of edm.EDM for an EDM checkpoint, from its network's arguments."""
    if read.kind != "EDMPrecond":
        raise UserError(f"a network of class {read.kind!r}: only EDMPrecond can be imported as edm")
    defaults: dict[str, dict[str, Any]] = {
        "SongUNet": {"model_channels": 128, "channel_mult": [1, 2, 2, 2], "num_blocks": 4, "attn_resolutions": [16]},
        "DhariwalUNet": {"model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_blocks": 3,
                         "attn_resolutions": [32, 16, 8]},
    }  # fmt: skip
    kind = read.arguments.get("model_type", "DhariwalUNet")
    if kind not in defaults:
        raise UserError(f"a network of type {kind!r}; known are {', '.join(defaults)}")
    given: dict[str, Any] = defaults[kind] | {"dropout": 0.10} | read.arguments
    fourier = given.get("embedding_type", "positional") == "fourier"
    return {
        "net": "adm" if kind == "DhariwalUNet" else "ncsnpp" if fourier else "song-unet",
        "conditional": bool(given.get("label_dim", 0)),
        "width": given["model_channels"],
        "depth": given["num_blocks"],
        "channel_mult": list(given["channel_mult"]),
        "attention": list(given["attn_resolutions"]),
        "dropout": given["dropout"],
        "augment": 0.12 if given.get("augment_dim", 0) else 0.0,
        "sigma_data": given.get("sigma_data", 0.5),
    }
