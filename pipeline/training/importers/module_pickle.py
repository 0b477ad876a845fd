"""Read the weights of a pickled network that carries its own source code (EDM's `.pkl`), without executing any.

The stream is first scanned without building anything; then only the few names below are allowed, each replaced by an
inert stand-in, so that no code of the file, or named by it, ever runs.
"""

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError

MAX_FILE_BYTES = 2**33
MAX_OPCODES = 5_000_000  # a network of 400 tensors has some 50,000
MAX_NESTING = 200  # of modules and of marks
REFUSED_OPCODES = ("INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER")
NUMBERS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


class Pickled(NamedTuple):
    """The network of a file."""

    kind: str  # the name of the class
    arguments: dict[str, Any]  # of its constructor
    tensors: dict[str, Tensor]  # parameters and buffers by dotted name
    left_out: tuple[str, ...] = ()  # what else the file holds


class Inert:
    """Stands in for an object of any class: keeps its state, does nothing."""

    kind = ""

    def __init__(self, *arguments: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


class Dictionary(dict):
    """Stands in for a dictionary with attributes."""

    def __setstate__(self, state: Any) -> None: ...


def read_module(content: bytes, where: str, entry: str = "ema") -> Pickled:
    """The network under `entry` of a pickled dictionary. where: for messages."""
    _scan(content, where)
    try:
        top = _Reader(io.BytesIO(content), where).load()
    except UserError:
        raise
    except Exception as error:  # a hostile stream may raise anything
        first = str(error).partition("\n")[0]
        raise UserError(f"{where} is not a readable checkpoint: {type(error).__name__}: {first}") from None
    network = top.get(entry) if isinstance(top, dict) else None
    if not isinstance(network, Inert):
        raise UserError(f"{where} holds no network under {entry!r}: is it an EDM checkpoint?")
    arguments = network.state.get("_init_kwargs", {})
    others = tuple(f"`{name}`" for name in top if name != entry)
    return Pickled(network.kind, dict(arguments), dict(_tensors(network, where)), others)


def _scan(content: bytes, where: str) -> None:
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"{where} has {len(content)} bytes, more than the {MAX_FILE_BYTES} allowed")
    depth = 0
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            depth += (opcode.name == "MARK") - (opcode.stack_before.count(pickletools.markobject))
            if opcode.name in REFUSED_OPCODES or (opcode.name == "PROTO" and (argument or 0) > 5):
                raise UserError(f"{where} uses {opcode.name}, which no checkpoint needs: do not trust this file")
            if count > MAX_OPCODES or depth > MAX_NESTING:
                raise UserError(f"{where} is far larger or deeper than a checkpoint: do not trust this file")
    except ValueError as error:
        raise UserError(f"{where} is broken or no pickle: {error}") from None


class _Reader(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, where: str) -> None:
        super().__init__(stream)
        self.where = where

    def find_class(self, module: str, name: str) -> Any:
        known = KNOWN.get((module, name))
        if known is not None:
            return known
        if module.startswith("torch.nn.modules.") and name.isidentifier():
            return type(name, (Inert,), {"kind": name})
        raise UserError(f"{self.where} asks for {module}.{name}, which no checkpoint needs: do not trust this file")

    def persistent_load(self, pid: Any) -> Any:
        raise UserError(f"{self.where} refers outside of itself: do not trust this file")


def _persistent(meta: Any) -> Inert:
    """An object that was pickled with its source: the source stays unread."""
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str):
        raise ValueError("an embedded class without a name")
    made = type(meta["class_name"], (Inert,), {"kind": meta["class_name"]})()
    made.__setstate__(meta.get("state"))
    return made


def _storage(content: bytes) -> Tensor:
    """A storage as a flat tensor; torch's own reader, which knows tensors only."""
    loaded = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    if isinstance(loaded, Tensor):
        return loaded.flatten()
    typed = loaded if isinstance(loaded, torch.storage.TypedStorage) else None
    if typed is None:
        raise ValueError(f"a storage of {type(loaded).__name__}")
    return torch.empty(0, dtype=typed.dtype).set_(typed._untyped_storage)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    if not isinstance(storage, Tensor) or not _are_sizes([offset, *size, *stride]) or len(size) != len(stride):
        raise ValueError("a tensor of no storage, or of no shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride) if length)
    if last >= storage.numel() and 0 not in size:
        raise ValueError(f"a tensor reaches element {last} of a storage of {storage.numel()}")
    if int(np.prod([int(length) for length in size], dtype=object)) > storage.numel():
        raise ValueError("a tensor larger than its storage")
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _are_sizes(values: list[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 for value in values)


def _parameter(data: Any, *rest: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError("a parameter that is no tensor")
    return data


def _dtype(name: Any, *rest: Any) -> np.dtype:
    if not isinstance(name, str) or name.lstrip("<>=|") not in NUMBERS:
        raise ValueError(f"numbers of type {name!r}")
    return np.dtype(name)


def _scalar(dtype: Any, content: Any = b"") -> float:
    if not isinstance(dtype, np.dtype) or not isinstance(content, bytes):
        raise ValueError("a number of no type")
    return float(np.frombuffer(content, dtype, 1)[0])


def _latin(text: Any, codec: Any) -> bytes:
    """Bytes as protocol 2 writes them."""
    if not isinstance(text, str) or codec != "latin1":
        raise ValueError(f"bytes in {codec!r}")
    return text.encode("latin1")


KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): lambda *arguments: OrderedDict(*arguments),
    ("_codecs", "encode"): _latin,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("dnnlib.util", "EasyDict"): Dictionary,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


def _tensors(module: Inert, where: str, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > MAX_NESTING:
        raise UserError(f"{where} is deeper than a network: do not trust this file")
    for part in ("_parameters", "_buffers"):
        for name, value in _mapping(module.state.get(part)).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    for name, inner in _mapping(module.state.get("_modules")).items():
        if isinstance(inner, Inert):
            yield from _tensors(inner, where, f"{prefix}{name}.", depth + 1)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
