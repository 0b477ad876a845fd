"""From a point of a sweep to a study in which the entry, and the entries that it needs, have the point's settings.

Entries keep their names, so that a trial computes the same bits as the study would.
"""

import dataclasses
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any

from methods import autoguidance
from pipeline.config.build import Block, build, build_method
from pipeline.config.study import Study
from pipeline.dag.graph import Call, chain, stage_module
from pipeline.data.artifacts import OUTSIDE
from pipeline.errors import ConfigError
from pipeline.sweeps.entry import Point, is_stacked

GUIDE_SETTINGS = ("method", "model", "train", "trunk")  # of `guides.0`: of the guide itself; others: of its use
MODEL = "model."  # in which the members of a stack may differ
GUIDANCE = "guidance"  # the strength of the entry's first guide; methods have different names for it


def changed(study: Study, of: str, field: str, value: Any) -> Study:
    """The study with one field of an entry, or of an entry that it needs, set to a value.

    field: of a run `model.*`, `train.*`, `sample.*`, `method`; of a guided entry `sample.*`, `guides.0.*` (how a guide
    is used, or its own `model.*`, `train.*`, `method`) and `run.*`; of STACK.MEMBER `train.*` and `sample.*` of the
    stack; of all `dataset.*`. value: {times: FACTOR} multiplies a whole number.
    """
    kind, name, parts = _target(study, of, field)
    entries = getattr(study, kind)
    where = f"{kind}.{name}"
    before = asdict(entries[name])
    if parts == ["trunk"] and value is None and before["trunk"] is None:
        raise ConfigError(
            f"{where} has no trunk, so without one it is the same: leave this point out (--values), or sweep a guided "
            "entry whose guide has a trunk"
        )
    if isinstance(value, dict) and value.keys() == {"times"}:
        value = round(_whole_number(before, parts, where) * value["times"])
    block = _with(before, parts, value, where)
    entry = build(type(entries[name]), block, where)
    return replace(study, **{kind: entries | {name: entry}})


def with_seed(study: Study, number: int, stages: set[tuple[str, str]]) -> Study:
    """The study with the number-th training seed of these trainings (stage, entry); 0 is the study's own seed."""
    for stage, name in stages:
        kind = "runs" if stage == "pretrain" else _kind(study, name)
        entry = getattr(study, kind)[name]
        train = entry.train | ({"seed": entry.train.get("seed", 0) + number} if number else {})
        study = replace(study, **{kind: getattr(study, kind) | {name: replace(entry, train=train)}})
    return study


def stacked(study: Study, of: str, points: list[Point], seeds: int) -> Study:
    """The study with all points of STACK.MEMBER as the members of that stack, with their `model.*`."""
    name, _, member = of.partition(".")
    entry, members = study.stacks[name], {}
    for point in points:
        model = {field.removeprefix(MODEL): value for field, value in point.changes.items() if field.startswith(MODEL)}
        members[point.label] = entry.members[member] | model
        build_method(entry.method, entry.model | members[point.label])
    return replace(study, stacks={name: replace(entry, members=members, train=entry.train | {"seeds": seeds})})


def check(calls: list[Call]) -> None:
    """Check every setting of these calls against its dataclass, before any of them runs."""
    for call in calls:
        build(import_module(stage_module(call.stage)).Config, call.config, call.stage)
        if call.stage == "prepare":
            outside = {"path": str(call.inputs[OUTSIDE])} if OUTSIDE in call.inputs else {}
            source = import_module(f"pipeline.data.datasets.{call.config['source']}").Source
            build(source, call.config["options"] | outside, f"datasets.{call.name}.options")
        if "sampler" in call.config:
            sampler = call.config["sampler"]
            method = build_method(sampler["method"], sampler["model"])
            build(method.Sampling, sampler["sample"], "sample")
            if "weaker" in sampler:
                build(autoguidance.Use, sampler["weaker"]["use"], "weaker")
            for guide in sampler["guides"]:
                build(build_method(guide["method"], guide["model"]).Use, guide["use"], guide["guide"])
        elif "method" in call.config:
            build_method(call.config["method"], call.config["model"])


def evaluated(study: Study, of: str) -> list[Call]:
    """All calls that a trial of this entry may need."""
    stage, name = ("evaluate-stack", of.partition(".")[0]) if is_stacked(study, of) else ("evaluate", of)
    return chain(study, stage, name)


def _target(study: Study, of: str, field: str) -> tuple[str, str, list[str]]:
    """Section and name of the entry of params.yaml that has the field, and the field's path in it."""
    if of in study.guided and field == GUIDANCE:
        field = f"guides.0.{_strength(study, of)}"
    head, *rest = field.split(".")
    if is_stacked(study, of):
        stack = of.partition(".")[0]
        if head not in ("dataset", "train", "sample") or not rest:
            raise ConfigError(
                f"a member of a stack such as {of} has no field {field!r}: it has model.*, and the stack "
                "train.*, sample.*, dataset.*"
            )
        return (
            ("datasets", study.stacks[stack].dataset, rest) if head == "dataset" else ("stacks", stack, [head, *rest])
        )
    run = study.guided[of].run if of in study.guided else of
    match head, rest:
        case "dataset", [_, *_]:
            return "datasets", study.measured_as(study.runs[run].dataset), rest
        case "run", [_, *_]:
            return "runs", run, rest
        case "guides", [number, setting, *_] if of in study.guided and setting in GUIDE_SETTINGS:
            guide = _guide(study, of, number)
            return _kind(study, guide), guide, rest[1:]
        case ("guides", []) | (("sample" | "weaker"), [_, *_]) if of in study.guided:
            return "guided", of, [head, *rest]
        case "guides", [number, _] if of in study.guided:
            _guide(study, of, number)
            return "guided", of, [head, *rest]
        case (("model" | "train" | "sample"), [_, *_]) | ("method", []) if of in study.runs:
            return "runs", run, [head, *rest]
    kind = "guided entry" if of in study.guided else "run"
    known = "sample.*, guides.0.*, run.*" if of in study.guided else "method, model.*, train.*, sample.*"
    raise ConfigError(f"a {kind} such as {of} has no field {field!r}: it has {known}, dataset.*")


def _guide(study: Study, of: str, number: str) -> str:
    guides = study.guided[of].guides
    if not number.isdecimal() or int(number) >= len(guides):
        raise ConfigError(f"guided.{of} has no guides.{number}: its guides are numbered 0 to {len(guides) - 1}")
    return guides[int(number)]["guide"]


def _kind(study: Study, guide: str) -> str:
    """The section of params.yaml that has the guide."""
    return "guides" if guide in study.guides else "classifiers"


def _strength(study: Study, of: str) -> str:
    """The name of the weight in the method of the entry's first guide."""
    name = _guide(study, of, "0")
    guide = getattr(study, _kind(study, name))[name]
    names = [field.name for field in dataclasses.fields(build_method(guide.method, guide.model).Use)]
    return next(name for name in ("scale", "weight") if name in names)


def _whole_number(block: Block, parts: list[str], where: str) -> int:
    for part in parts:
        block = block.get(part, {})
    if not isinstance(block, int):
        raise ConfigError(
            f"{where}.{'.'.join(parts)} is not written in params.yaml: write it, so that it can be multiplied"
        )
    return block


def _with(block: Any, parts: list[str], value: Any, where: str) -> Any:
    """A copy of nested blocks and lists with one value replaced."""
    if not parts:
        return value
    first, *rest = parts
    if isinstance(block, list):
        return [_with(inner, rest, value, where) if str(i) == first else inner for i, inner in enumerate(block)]
    if not isinstance(block, dict | None):
        raise ConfigError(f"{where} has no field {'.'.join(parts)!r}: {block!r} is one value")
    block = block or {}
    return block | {first: _with(block.get(first), rest, value, where)}
