"""Build frozen dataclasses from blocks of params.yaml; every key and type is checked."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from keyword import iskeyword
from traceback import extract_tb
from typing import Any, TypeVar

from pipeline.errors import ConfigError

T = TypeVar("T")
Block = dict[str, Any]
TRAINABLE = ("players", "build", "draw", "loss")  # of the contract, `methods.core.types.Trainable`
SHOWN_CHARACTERS = 80


def build(kind: type[T], block: Any, where: str) -> T:
    """`kind(**block)`; ConfigError for an unknown key, a missing one or a wrong type. where: the block's name in it."""
    from pydantic import ValidationError  # here: `trilemma --help` does not import pydantic

    block = _as_fields(as_block(block, where))
    _check_known(kind, block, where)
    try:
        return _adapter(kind).validate_json(json.dumps(block), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *(str(part).removesuffix("_") for part in first["loc"])])
        if first["type"] == "value_error":
            raise ConfigError(f"{place}: {first['ctx']['error']}") from None  # type: ignore[typeddict-item]
        came = "" if first["type"] == "missing" else f" {shown(first['input'])}"
        raise ConfigError(f"{place}:{came} does not fit: {first['msg']}; change it in params.yaml") from None


def _as_fields(block: Block) -> Block:
    """A key such as `from`, which Python reserves, is the field `from_`; so in the block that it names."""
    return {
        f"{key}_" if iskeyword(key) else key: _as_fields(inner) if iskeyword(key) and isinstance(inner, dict) else inner
        for key, inner in block.items()
    }


def _check_known(kind: type, block: Mapping[str, Any], where: str) -> None:
    """ConfigError for an unknown key of the block or of a block in it."""
    known = [f for f in dataclasses.fields(kind) if f.init]
    check_keys([str(key).removesuffix("_") for key in block], [f.name.removesuffix("_") for f in known], where)
    for f in known:
        inner = block.get(f.name)
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type) and isinstance(inner, dict):
            _check_known(f.type, inner, f"{where}.{f.name.removesuffix('_')}")


@lru_cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def shown(value: object) -> str:
    """Its repr, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def check_keys(block: Iterable[str], known: list[str], where: str) -> None:
    for key in block:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key {shown(key)}{nearest(key, known)}; it has {', '.join(sorted(known))}"
            )


def pick(entries: Mapping[str, T], name: str, what: str) -> T:
    """entries[name]; ConfigError with all names if there is none. what: the kind of entry, for the message."""
    if not isinstance(name, str) or name not in entries:
        names = ", ".join(entries) or "nothing"
        raise ConfigError(f"no {what} named {shown(name)} in params.yaml{nearest(name, list(entries))}; it has {names}")
    return entries[name]


def build_method(method: str, model: Block) -> Any:
    """The dataclass that "edm.EDM" names, with the fields of a `model` block."""
    return build(method_class(method), model, f"{method}: model")


def method_class(method: str) -> type:
    """The class that "edm.EDM", or "mypackage.mine.Mine" of elsewhere, names."""
    module, _, cls = method.rpartition(".")
    if "." not in module and find_spec(f"methods.{module}") is not None:
        return getattr(import_module(f"methods.{module}"), cls)
    try:
        kind = getattr(import_module(module), cls)
    except Exception as error:  # whatever the code of others raises
        raise ConfigError(f"method {method!r}: {_place_of(error)}: {type(error).__name__}: {_line(error)}") from error
    check_contract(kind, method)
    return kind


def check_contract(kind: type, method: str) -> None:
    """ConfigError for a class that lacks a part of what the loop and the stages call."""
    parts = {"a generator": ("Sampling", "sample"), "a guide": ("Use", "guide")}
    what = "a guide" if any(hasattr(kind, name) for name in parts["a guide"]) else "a generator"
    lacking = [name for name in (*TRAINABLE, *parts[what]) if not callable(getattr(kind, name, None))]
    if not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"method {method!r}: {kind.__name__} is no frozen dataclass: write @dataclass(frozen=True)")
    if lacking:
        raise ConfigError(f"method {method!r}: {what} needs {', '.join(lacking)}: see docs/own-methods.md")


def _place_of(error: Exception) -> str:
    """File and line of the last code that was not Python's import system."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    outer = ("<frozen importlib", __file__, import_module.__code__.co_filename)
    frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(outer)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "its import"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def nearest(name: str, known: list[str]) -> str:
    """A hint for an unknown name; empty without a similar one."""
    near = get_close_matches(name, known, n=1) if isinstance(name, str) else []
    return f" (did you mean {near[0]!r}?)" if near else ""


def as_block(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {shown(value)} came, but a block of `key: value` was wanted ({{}} for none)")
    return value
