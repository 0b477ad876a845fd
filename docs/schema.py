"""docs/params.schema.json: the JSON schema by which an editor completes and checks a params.yaml.

python -m docs.schema    # writes it again, after a change of a dataclass that params.yaml is read into
"""

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from docs.blocks import (
    KINDS,
    ON_BAD_RECORD,
    TRAIN,
    AnySample,
    FeaturesConfig,
    LaunchEntry,
    Sweep,
    bad_record_key,
    comments,
    methods,
    nested,
    sources,
    summary,
    written,
    written_fields,
)  # fmt: skip
from methods import autoguidance

FILE = Path(__file__).with_name("params.schema.json")
Schema = dict[str, Any]


def params_schema() -> Schema:
    sections = {kind: _named(_entry(kind, entry)) for kind, entry in KINDS.items()}
    properties = {
        "root": {"type": "string", "description": "folder of the code, relative to this file", "default": "."},
        "launch": block_schema(LaunchEntry),
        **sections,
        "sweeps": _named(block_schema(Sweep) | {"required": []}),
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "params.yaml of a trilemma study",
        **_object(properties),
        "definitions": _definitions(),
    }


def block_schema(*kinds: type) -> Schema:
    """The schema of a block whose keys are the fields of these dataclasses, with their comments as descriptions."""
    found = [_described(_inlined(TypeAdapter(kind).json_schema()), kind) for kind in kinds]
    properties: Schema = {}
    for schema in reversed(found):
        properties |= schema["properties"]
    required = [name for schema in found for name in schema.get("required", [])]
    return _object(properties) | {"required": required, "description": summary(kinds[0])}


def _entry(kind: str, entry: type) -> Schema:
    """An entry whose blocks depend on its `source` or `method`."""
    schema = block_schema(entry)
    properties = schema["properties"]
    if kind in TRAIN:
        properties["train"] = block_schema(*TRAIN[kind])
    if kind == "datasets":
        features = block_schema(FeaturesConfig)
        del features["properties"]["images"], features["required"]  # it comes from `evaluate`
        features["properties"]["inception"] |= {"anyOf": [{"const": "auto"}, {"type": "null"}]}
        properties["features"] = features
        schema["allOf"] = _choices(schema, "source", {name: {"options": f"{name}.options"} for name in sources()})
    if "method" in properties:
        part = "decode" if kind == "autoencoders" else "Sampling" if "sample" in properties else "Use"
        fitting = {name: cls for name, cls in methods().items() if hasattr(cls, part)}
        parts = {"model": "model", "sample": "sample"} if "sample" in properties else {"model": "model"}
        choices = {name: {key: f"{name}.{part}" for key, part in parts.items()} for name in fitting}
        if "members" in properties:
            choices = {name: blocks | {"members": f"{name}.members"} for name, blocks in choices.items()}
        schema["allOf"] = _choices(schema, "method", choices)
    if kind == "autoguided":
        weaker = block_schema(autoguidance.Use, AnySample)
        weaker["properties"]["run"] = {"type": "string"}
        properties["weaker"] = weaker | {"required": ["run"]}
    if kind in ("guided", "autoguided"):
        samplings = (cls.Sampling for cls in methods().values() if hasattr(cls, "Sampling"))
        uses = [cls.Use for cls in methods().values() if hasattr(cls, "Use")]
        use = _merged(block_schema(each) for each in uses)
        use["properties"] = {"guide": {"type": "string"}, **use["properties"]}
        properties["guides"]["items"] = use | {"required": ["guide"]}
        properties["sample"] = _merged(block_schema(each, AnySample) for each in samplings)
    return schema


def _choices(schema: Schema, key: str, choices: dict[str, dict[str, str]]) -> list[Schema]:
    """`key` is one of the choices, and each choice gives other blocks their definitions."""
    schema["properties"][key] |= {"enum": sorted(choices)} if key == "source" else {"anyOf": _ours_or_others(choices)}
    return [
        {
            "if": {"properties": {key: {"const": name}}, "required": [key]},
            "then": {"properties": {block: {"$ref": f"#/definitions/{ref}"} for block, ref in blocks.items()}},
        }
        for name, blocks in choices.items()
    ]


def _ours_or_others(choices: Iterable[str]) -> list[Schema]:
    """One of our methods, or one of a module that has another name."""
    modules = sorted({name.partition(".")[0] for name in methods()})
    return [{"enum": sorted(choices)}, {"pattern": rf"^(?!({'|'.join(modules)})\.)[\w.]+\.\w+$"}]


def _definitions() -> Schema:
    found: Schema = {}
    for name, source in sources().items():
        found[f"{name}.options"] = options = block_schema(source)
        comment = bad_record_key().comment or "what a record that cannot be used does"
        options["properties"][ON_BAD_RECORD] = {"enum": ["stop", "skip"], "default": "stop", "description": comment}
    for name, method in methods().items():
        found[f"{name}.model"] = block_schema(method)
        if hasattr(method, "Sampling"):
            found[f"{name}.sample"] = block_schema(method.Sampling, AnySample)  # type: ignore[attr-defined]
            found[f"{name}.members"] = _named({"$ref": f"#/definitions/{name}.model"})
    return found


def _described(schema: Schema, kind: type) -> Schema:
    """With the comments of the fields, and no other keys; fields that an entry does not set are left out."""
    notes = comments(kind)
    properties: Schema = {}
    for field, hint in written_fields(kind):
        part = {
            key: value for key, value in schema["properties"][field.name].items() if key not in ("title", "default")
        }
        if field.default is not dataclasses.MISSING and field.default != math.inf:  # which JSON cannot write
            part["default"] = field.default
        inner = nested(hint)
        if inner is not None:
            options = part.get("anyOf", [part])
            of_block = next(option for option in options if "properties" in option)
            of_block.update(_described(of_block, inner))
        description = notes[field.name] or (summary(inner) if inner else "")
        properties[written(field.name)] = part | {"description": description}
    return _object(properties) | {"required": [written(name) for name in schema.get("required", [])]}


def _inlined(schema: Schema) -> Schema:
    """Nested blocks in place of references to them."""
    definitions = schema.pop("$defs", {})

    def replaced(part: Any) -> Any:
        if isinstance(part, list):
            return [replaced(each) for each in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return replaced(definitions[part["$ref"].rpartition("/")[2]]) | {
                k: v for k, v in part.items() if k != "$ref"
            }
        return {key: replaced(value) for key, value in part.items()}

    return replaced(schema)


def _merged(schemas: Iterable[Schema]) -> Schema:
    """A block that may have the keys of any of these; a key of several has any of their types."""
    options: dict[str, list[Schema]] = {}
    for schema in schemas:
        for name, part in schema["properties"].items():
            options.setdefault(name, []).append({key: value for key, value in part.items() if key != "default"})
    unique = {name: [part for i, part in enumerate(parts) if part not in parts[:i]] for name, parts in options.items()}
    return _object({name: parts[0] if len(parts) == 1 else {"anyOf": parts} for name, parts in unique.items()})


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _named(entry: Schema) -> Schema:
    """Entries by a name that the user chooses."""
    return {"type": ["object", "null"], "additionalProperties": entry}


def text() -> str:
    return json.dumps(params_schema(), indent=1, allow_nan=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
