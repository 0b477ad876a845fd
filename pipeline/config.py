"""params.yaml -> frozen dataclasses, strictly. Nothing else reads YAML.

An entry's `model`, `train` and `sample` blocks stay as written here: they are checked against the dataclass of their
method or stage by `build` where that is imported anyway, so that reading the parameters never costs an import of torch.
"""

import ast
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from pipeline.entries import (
    KINDS,
    Block,
    ClassifierEntry,
    DatasetEntry,
    GuidedEntry,
    GuideEntry,
    Launch,
    RunEntry,
    StackEntry,
    ToyEntry,
    TranslationEntry,
)  # fmt: skip
from pipeline.errors import ConfigError, naming

T = TypeVar("T")


@dataclass(frozen=True)
class Study:
    """One params.yaml."""

    file: Path
    root: Path  # of the code
    out: Path  # where artifacts lie
    launch: Launch
    sweeps: dict[str, Block]  # see sweep_entry.py
    datasets: dict[str, DatasetEntry]
    runs: dict[str, RunEntry]
    classifiers: dict[str, ClassifierEntry]
    guides: dict[str, GuideEntry]
    guided: dict[str, GuidedEntry]
    translations: dict[str, TranslationEntry]
    stacks: dict[str, StackEntry]
    toys: dict[str, ToyEntry]

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def name(self) -> str:
        return self.folder.name if self.root != self.folder else "root"


def load_study(file: Path) -> Study:
    """Read and check everything that can be checked without importing a method."""
    content = _read_yaml(file)
    check_keys(content, ["root", "launch", *KINDS, "sweeps"], str(file))
    entries = {
        kind: {
            name: build(entry_type, entry, f"{file.name}: {kind}.{name}")
            for name, entry in _mapping(content.get(kind) or {}, f"{file.name}: {kind}").items()
        }
        for kind, entry_type in KINDS.items()
    }
    sweeps = _mapping(content.get("sweeps") or {}, f"{file.name}: sweeps")
    launch = build(Launch, content.get("launch") or {}, f"{file.name}: launch")
    root = (file.parent / content.get("root", ".")).resolve()
    study = Study(file, root, file.parent / "out", launch, sweeps, **entries)
    _check_references(study)
    return study


def build(kind: type[T], block: Any, where: str) -> T:
    """`kind(**block)` with every key and type checked; errors name the setting, what came and what was wanted."""
    block = _mapping(block, where)
    _check_known(kind, block, where)
    try:
        return _adapter(kind).validate_json(json.dumps(block), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *(str(part) for part in first["loc"])])
        if first["type"] == "value_error":
            raise ConfigError(f"{place}: {first['ctx']['error']}") from None  # type: ignore[typeddict-item]
        came = "" if first["type"] == "missing" else f" {first['input']!r}"
        raise ConfigError(f"{place}:{came} does not fit: {first['msg']}; change it in params.yaml") from None


def _check_known(kind: type, block: Mapping[str, Any], where: str) -> None:
    """Keys of a block and of the blocks in it."""
    known = [f for f in dataclasses.fields(kind) if f.init]
    check_keys(block, [f.name for f in known], where)
    for f in known:
        inner = block.get(f.name)
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type) and isinstance(inner, dict):
            _check_known(f.type, inner, f"{where}.{f.name}")


@lru_cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def check_keys(block: Mapping[str, Any], known: list[str], where: str) -> None:
    for key in block:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key {key!r}{_nearest(key, known)}; it knows {', '.join(sorted(known))}"
            )


def pick(entries: Mapping[str, T], name: str, what: str) -> T:
    """entries[name], or one line that lists what there is."""
    if name not in entries:
        there = ", ".join(entries) or "nothing"
        raise ConfigError(f"no {what} named {name!r} in params.yaml{_nearest(name, list(entries))}; it has {there}")
    return entries[name]


@lru_cache  # a sweep needs it thousands of times
def method_modules(method: str, root: Path) -> tuple[str, str]:
    """("methods.edm", "EDM") of "edm.EDM", checked against the file without importing it."""
    module, _, cls = method.rpartition(".")
    file = root / "methods" / f"{module}.py"
    if not module.isidentifier() or not file.is_file():
        found = sorted(path.stem for path in (root / "methods").glob("[!_]*.py"))
        near, there = _nearest(module, found), ", ".join(found)
        raise ConfigError(f"method {method!r}: no methods/{module or method}.py{near}; there are {there}")
    classes = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    if cls not in classes:
        raise ConfigError(f"method {method!r}: no class {cls!r} in methods/{module}.py; it has {', '.join(classes)}")
    return f"methods.{module}", cls


def build_method(method: str, model: Block) -> Any:
    """The dataclass that "edm.EDM" names, with the fields of a `model` block."""
    module, _, cls = method.rpartition(".")
    return build(getattr(import_module(f"methods.{module}"), cls), model, f"{method}: model")


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {value!r} came, but a block of `key: value` was wanted ({{}} for none)")
    return value


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"no {file}: run this in a study's folder, the one with params.yaml")
    try:
        content = YAML(typ="safe", pure=True).load(file.read_text())
    except (MarkedYAMLError, UnicodeDecodeError) as error:
        line = str(error).replace("\n", " ")
        raise ConfigError(f"{file} is not YAML: {line}") from None
    return _mapping(content, str(file))


def _check_references(study: Study) -> None:
    for name, dataset in study.datasets.items():
        sources = sorted(path.stem for path in (study.root / "pipeline" / "datasets").glob("[!_]*.py"))
        if dataset.source not in sources:
            near = _nearest(dataset.source, sources)
            there = ", ".join(sources)
            raise ConfigError(
                f"datasets.{name}.source: no pipeline/datasets/{dataset.source}.py{near}; there are {there}"
            )
    for kind, trained in (("runs", study.runs), ("classifiers", study.classifiers), ("stacks", study.stacks)):
        for name, entry in trained.items():
            with naming(f"{kind}.{name}"):
                pick(study.datasets, entry.dataset, "dataset")
                method_modules(entry.method, study.root)
    for name, guide in study.guides.items():
        with naming(f"guides.{name}"):
            _check_guide(study, name, guide)
    for name, guided in study.guided.items():
        with naming(f"guided.{name}"):
            dataset = pick(study.runs, guided.run, "run").dataset
            if name in study.runs:
                raise ConfigError("a run has the same name: rename one of them")
            for use in guided.guides:
                pick({**study.guides, **study.classifiers}, use.get("guide", ""), "guide")
                if use["guide"] in study.classifiers:
                    _check_dataset(study, use["guide"], dataset)
    for name, translation in study.translations.items():
        with naming(f"translations.{name}"):
            pick(study.guided, translation.guided, "guided entry")


def _check_guide(study: Study, name: str, guide: GuideEntry) -> None:
    dataset = pick(study.runs, guide.run, "run").dataset
    method_modules(guide.method, study.root)
    if name in study.classifiers:
        raise ConfigError("a classifier has the same name: rename one of them")
    if "trunk" in guide.model:
        raise ConfigError("model.trunk: write `trunk: NAME` of a classifier beside `model`, not in it")
    if guide.trunk is not None:
        pick(study.classifiers, guide.trunk, "classifier")
        _check_dataset(study, guide.trunk, dataset)


def _check_dataset(study: Study, classifier: str, dataset: str) -> None:
    trained_on = study.classifiers[classifier].dataset
    if trained_on != dataset:
        raise ConfigError(f"classifier {classifier!r} knows {trained_on!r}, but the run's dataset is {dataset!r}")
