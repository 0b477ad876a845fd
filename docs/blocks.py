"""Which dataclass describes which block of params.yaml, and the keys of each. The project is imported here only."""

import ast
import dataclasses
import inspect
import pkgutil
import textwrap
import tokenize
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import methods as methods_package
from pipeline.config.entries import KINDS, LaunchEntry
from pipeline.data import datasets as datasets_package
from pipeline.stages.autoencode import Train as AutoencoderTrain
from pipeline.stages.features import Config as FeaturesConfig
from pipeline.stages.prepare import Config as PrepareConfig
from pipeline.stages.pretrain import Train
from pipeline.sweeps.entry import Sweep
from pipeline.training.early_stopping import GuideTrain
from pipeline.training.importers.checkpoints import Format
from pipeline.training.stacked import StackTrain

__all__ = ["KINDS", "FeaturesConfig", "LaunchEntry", "Sweep"]


@dataclass(frozen=True)
class Imported:
    """A trained network from a checkpoint file, instead of a training."""

    imported: str | None = None  # a checkpoint file: absolute, or relative to TRILEMMA_DATA or to the study
    format: Format | None = None  # of that file


@dataclass(frozen=True)
class AnySample:
    """Keys of `sample` that every method has."""

    ema: float | None = None  # relative length of the weights' average, with `train.ema_lengths`; null: its own


TRAIN: dict[str, tuple[type, ...]] = {  # the `train` block of each kind of entry
    "runs": (Train, Imported),
    "derived": (Train,),
    "classifiers": (GuideTrain, Imported),
    "guides": (GuideTrain, Imported),
    "stacks": (StackTrain,),
    "autoencoders": (AutoencoderTrain, Imported),
}
ON_BAD_RECORD = "on_bad_record"  # a key of `options` that every source has


class Key(NamedTuple):
    name: str  # dotted below a nested block
    type: str
    default: str  # as in YAML
    comment: str


def sources() -> dict[str, type]:
    """The `Source` of every dataset module, whose fields are the keys of `options`."""
    names = [module.name for module in pkgutil.iter_modules(datasets_package.__path__)]
    return {name: import_module(f"{datasets_package.__name__}.{name}").Source for name in names}


def methods() -> dict[str, type]:
    """Every trainable dataclass of methods/*.py, by the name that an entry's `method` gives it."""
    found: dict[str, type] = {}
    for info in pkgutil.iter_modules(methods_package.__path__):
        if not info.ispkg:
            module = import_module(f"methods.{info.name}")
            for name, cls in vars(module).items():
                if dataclasses.is_dataclass(cls) and hasattr(cls, "players") and cls.__module__ == module.__name__:
                    found[f"{info.name}.{name}"] = cls  # type: ignore[assignment]
    return found


def bad_record_key() -> Key:
    return next(key for key in keys(PrepareConfig) if key.name == ON_BAD_RECORD)


def written_fields(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """The fields that an entry may set, with their types: not those that hold another method."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.init and not hasattr(nested(hints[field.name]), "players"):
            yield field, hints[field.name]


def written(field: str) -> str:
    """A field's key in params.yaml: `from_` is `from`, which Python reserves."""
    return field.removesuffix("_")


def keys(*kinds: type) -> list[Key]:
    """The keys of a block: the fields of its dataclasses, those of nested dataclasses with a dot."""
    found: dict[str, Key] = {}
    for kind in kinds:
        notes = comments(kind)
        for field, hint in written_fields(kind):
            inner, name = nested(hint), written(field.name)
            if inner is None:
                found.setdefault(name, Key(name, type_text(hint), default_text(field), notes[field.name]))
            else:
                found |= {f"{name}.{key.name}": key._replace(name=f"{name}.{key.name}") for key in keys(inner)}
    return list(found.values())


def summary(kind: type) -> str:
    """The first paragraph of its docstring, on one line; not the one that dataclasses write themselves."""
    text = inspect.getdoc(kind) or ""
    return "" if text.startswith(f"{kind.__name__}(") else " ".join(text.partition("\n\n")[0].split())


def comments(kind: type) -> dict[str, str]:
    """The comment beside each field, from the source of the class and of those it inherits from."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if dataclasses.is_dataclass(cls):
            source = textwrap.dedent(inspect.getsource(cls))
            by_line = {
                token.start[0]: token.string.lstrip("# ")
                for token in tokenize.generate_tokens(StringIO(source).readline)
                if token.type == tokenize.COMMENT
            }
            body = ast.parse(source).body[0]
            assert isinstance(body, ast.ClassDef)
            for node in body.body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                    found[node.target.id] = " ".join(by_line[line] for line in lines if line in by_line)
    return found


def nested(hint: Any) -> type | None:
    """The dataclass of a nested block; also of one that may be null."""
    options = [hint, *(get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ())]
    return next((part for part in options if isinstance(part, type) and dataclasses.is_dataclass(part)), None)


def type_text(hint: Any) -> str:
    """A type as a reader of YAML knows it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(yaml_text(value) for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_text(part) for part in inner))
    if origin is list or (origin is tuple and inner[-1] is Ellipsis):
        return f"list of {type_text(inner[0])}"
    if origin is tuple:
        return f"list of {len(inner)}: {', '.join(type_text(part) for part in inner)}"
    if origin is dict:
        return "block" if inner[1] is Any else f"name: {type_text(inner[1])}"
    names = {type(None): "null", str: "text", bool: "true or false", int: "integer", float: "number", Any: "any"}
    return names.get(hint) or getattr(hint, "__name__", str(hint))


def default_text(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return yaml_text(field.default_factory())
    return "required" if field.default is dataclasses.MISSING else yaml_text(field.default)


def yaml_text(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return {"inf": ".inf", "-inf": "-.inf"}.get(str(value), str(value))
        case list() | tuple():
            return f"[{', '.join(yaml_text(part) for part in value)}]"
        case "":
            return '""'
        case _:
            return str(value)
