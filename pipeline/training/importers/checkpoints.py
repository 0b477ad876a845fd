"""Load published checkpoints into this project's networks: no code is executed, every name and shape is checked.

The entry's method and model build the networks; their parameters must be exactly those of the file.
"""

import argparse
import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from methods.nets.adm.blocks import AttentionOrder
from pipeline.config.build import Block
from pipeline.data.foreign_files import check_unpacked, wrong_file
from pipeline.errors import UserError
from pipeline.training.importers.module_pickle import Pickled, read_module

Format = Literal["edm", "adm", "iddpm", "ddgan", "dg", "dit", "kl"]
NETS: dict[str, tuple[str, ...]] = {  # the network that the file holds, by format
    "edm": ("denoiser",),
    "adm": ("denoiser", "classifier"),
    "iddpm": ("denoiser",),
    "ddgan": ("generator",),
    "dg": ("discriminator",),
    "dit": ("denoiser",),
    "kl": ("autoencoder",),
}
ENTRIES = ("ema", "netG_dict", "state_dict", "model_state_dict", "model_ema", "ema_model", "model", "net", "module")
WRAPPED = re.compile(r"^(?:module\.)+|(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.(?:module\.)*")
PREFIX, OFFICIAL_PREFIX = "body.", {"edm": "model."}  # of parameter names
CLASSES = f"{PREFIX}label_emb.weight"
HARMLESS: list[Any] = [
    argparse.Namespace
]  # plain values by name; DiT's training keeps its arguments beside the networks
DIT_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # by width: S, B, L, XL
NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # in older files of "kl"
OLD_ATTENTION = re.compile(rf"(?<=\.)({'|'.join(NEW_ATTENTION)})(?=\.(?:weight|bias)$)")
LINEAR = tuple(f"{name}.weight" for name in NEW_ATTENTION.values())  # once convolutions of 1 x 1
RECOMPUTED = ("resample_filter", "u")  # buffers of official networks that these compute
ADM_ORDERS: dict[tuple[int, int], AttentionOrder] = {  # by channels of the first layer and number of input blocks
    (192, 16): "qkv-first",  # 64x64_diffusion.pt: guided-diffusion's use_new_attention_order
    (256, 15): "heads-first",  # 128x128_diffusion.pt
    (256, 18): "heads-first",  # 256x256_diffusion.pt, 256x256_diffusion_uncond.pt, lsun_*.pt
    (128, 21): "heads-first",  # 512x512_diffusion.pt
}


def read_checkpoint(file: Path, format: Format) -> Pickled:
    """Tensors by official name, and the metadata of the network; UserError if the file is not readable.

    EDM: the averaged network of a `.pkl`. All formats: tensors as torch.save or safetensors writes them, at the top or
    under one of `ENTRIES`. The names that torch.compile and parallel training add are removed.
    """
    content = file.read_bytes()
    if (reason := wrong_file(content)) is not None:
        raise UserError(f"{file} is no checkpoint: {reason}")
    is_zip = content.startswith(b"PK\x03\x04")
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        return _of_tensors(_safetensors(content, file), file, ())
    if format == "edm" and not is_zip:
        return read_module(content, str(file))
    if is_zip:
        _check_zip(content, file)
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(HARMLESS):  # torch's own advice
            loaded = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # a hostile file may raise anything; nothing of it was executed
        raise UserError(f"{file} is not a readable checkpoint of tensors alone: {_reason(error)}") from None
    left_out = list[str]()
    while names := _entries(loaded):
        left_out += [f"`{name}`" for name in loaded if name != names[0]]
        loaded = loaded[names[0]]
    return _of_tensors(loaded, file, tuple(left_out))


def _entries(loaded: Any) -> list[str]:
    """Names under which there may be a network."""
    return [name for name in ENTRIES if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping)]


def _of_tensors(loaded: Any, file: Path, left_out: tuple[str, ...]) -> Pickled:
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()) or not loaded:
        raise UserError(f"{file} holds no dictionary of tensors, at the top or under {', '.join(ENTRIES)}")
    tensors = {WRAPPED.sub("", str(name)): value for name, value in loaded.items()}
    if len(tensors) < len(loaded):
        raise UserError(f"{file} holds a network twice, with and without the names that torch.compile adds: keep one")
    return Pickled("", {}, tensors, left_out)


def _safetensors(content: bytes, file: Path) -> dict[str, Tensor]:
    try:
        return load(content)
    except SafetensorError:
        raise UserError(f"{file} is a broken or incomplete safetensors file: fetch it again") from None


def _check_zip(content: bytes, file: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            check_unpacked(archive, len(content), str(file))
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise UserError(f"{file} is not a readable checkpoint of tensors alone: it is cut short or broken") from None


def _reason(error: Exception) -> str:
    """Our own words: torch's contain the advice to load the file unsafely."""
    found = re.search(r"Unsupported (?:global|class|operand|operation)[^\n]*?(?:GLOBAL )?([\w.]+\.[\w.]+)", str(error))
    return f"it holds objects ({found[1]})" if found else "it is cut short or broken, or torch.save did not write it"


def fit(
    read: Pickled, format: Format, nets: Mapping[str, nn.Module], order: AttentionOrder | None, where: str
) -> dict[str, dict[str, Tensor]]:
    """The file's tensors by the names of the network; UserError for a missing or surplus one or another shape.

    order: the `attention_order` of the entry's model, None if it has none; UserError if it is not, or may not be, the
    file's.
    """
    role = next((name for name in NETS[format] if name in nets), None)
    if role is None:
        raise UserError(f"{where}: a checkpoint of {format} has a {' or '.join(NETS[format])}, this method has none")
    wanted = nets[role].state_dict()
    prefix = PREFIX if all(name.startswith(PREFIX) for name in wanted) else ""
    official = OFFICIAL_PREFIX.get(format, "")
    given = {f"{prefix}{name.removeprefix(official)}": value for name, value in read.tensors.items()}
    if format == "kl":
        given = {OLD_ATTENTION.sub(lambda found: NEW_ATTENTION[found[1]], name): value for name, value in given.items()}
        given = {name: value.flatten(1) if name.endswith(LINEAR) else value for name, value in given.items()}
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
    _check_order(order, order_in(read.tensors, format), where)
    return {role: {name: given[name].to(value.dtype).contiguous() for name, value in wanted.items()}}


def order_in(tensors: Mapping[str, Tensor], format: Format) -> AttentionOrder | None:
    """The order of q, k and v in the attention of a file of ADM or improved DDPM; None if it cannot be known."""
    has_attention = any(name.endswith("qkv.weight") for name in tensors)
    is_unet = any(name.startswith("output_blocks.") for name in tensors)
    if format != "adm" or not is_unet or not has_attention:  # classifiers' code and improved DDPM's have one order
        return "heads-first"
    blocks = {name.split(".")[1] for name in tensors if name.startswith("input_blocks.")}
    return ADM_ORDERS.get((len(tensors["input_blocks.0.0.weight"]), len(blocks)))


def _check_order(order: AttentionOrder | None, official: AttentionOrder | None, where: str) -> None:
    if order is None and official is None:
        raise UserError(
            f"{where}: no released network, so its order of q, k and v in attention is not known: set "
            "model.attention_order to heads-first (guided-diffusion's default) or qkv-first (use_new_attention_order)"
        )
    used = order or "heads-first"
    if official is not None and used != official:
        raise UserError(f"{where}: model.attention_order {used!r} came, {official!r} was wanted: the file has it")


def dit_model_of(read: Pickled) -> Block:
    """The `model` block of iddpm.IDDPM for a DiT, from the shapes of its parameters; all but `heads` follows from them.

    The chain and the loss are those of the released networks.
    """
    shapes = {name: list(value.shape) for name, value in read.tensors.items()}
    depth = sum(name.endswith(".attn.qkv.weight") for name in shapes)
    try:
        width, channels, patch, _ = shapes["x_embedder.proj.weight"]
        outputs = shapes["final_layer.linear.weight"][0]
    except (KeyError, ValueError):
        raise UserError(
            "no x_embedder.proj.weight and final_layer.linear.weight of a DiT: is it another format?"
        ) from None
    model: Block = {"net": "dit", "steps": 1000, "schedule": "linear", "objective": "mse"}
    model |= {} if outputs == 2 * channels * patch**2 else {"variance": "large"}
    if "y_embedder.embedding_table.weight" in shapes:
        model |= {"conditional": True, "label_dropout": 0.1}
    heads = {"heads": DIT_HEADS[width]} if width in DIT_HEADS else {}
    return model | {"width": width, "depth": depth, "patch": patch} | heads


def model_of(read: Pickled) -> Block:
    """The `model` block of edm.EDM for an EDM checkpoint, from its network's arguments."""
    if not read.kind:
        raise UserError("a file of tensors alone does not describe its network: pass --name with an entry that does")
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
