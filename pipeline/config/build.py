"""Build frozen dataclasses from blocks of params.yaml; every key and type is checked."""

import dataclasses
import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeVar

from pipeline.errors import ConfigError

T = TypeVar("T")
Block = dict[str, Any]
SHOWN_CHARACTERS = 80


def build(kind: type[T], block: Any, where: str) -> T:
    """`kind(**block)`; ConfigError for an unknown key, a missing one or a wrong type. where: the block's name in it."""
    from pydantic import ValidationError  # here: `trilemma --help` does not import pydantic

    block = as_block(block, where)
    _check_known(kind, block, where)
    try:
        return _adapter(kind).validate_json(json.dumps(block), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *(str(part) for part in first["loc"])])
        if first["type"] == "value_error":
            raise ConfigError(f"{place}: {first['ctx']['error']}") from None  # type: ignore[typeddict-item]
        came = "" if first["type"] == "missing" else f" {shown(first['input'])}"
        raise ConfigError(f"{place}:{came} does not fit: {first['msg']}; change it in params.yaml") from None


def _check_known(kind: type, block: Mapping[str, Any], where: str) -> None:
    """ConfigError for an unknown key of the block or of a block in it."""
    known = [f for f in dataclasses.fields(kind) if f.init]
    check_keys(block, [f.name for f in known], where)
    for f in known:
        inner = block.get(f.name)
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type) and isinstance(inner, dict):
            _check_known(f.type, inner, f"{where}.{f.name}")


@lru_cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def shown(value: object) -> str:
    """Its repr, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def check_keys(block: Mapping[str, Any], known: list[str], where: str) -> None:
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
    module, _, cls = method.rpartition(".")
    return build(getattr(import_module(f"methods.{module}"), cls), model, f"{method}: model")


def nearest(name: str, known: list[str]) -> str:
    """A hint for an unknown name; empty without a similar one."""
    near = get_close_matches(name, known, n=1) if isinstance(name, str) else []
    return f" (did you mean {near[0]!r}?)" if near else ""


def as_block(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {shown(value)} came, but a block of `key: value` was wanted ({{}} for none)")
    return value
