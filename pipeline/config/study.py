"""params.yaml -> frozen dataclasses, strictly.

An entry's `model`, `train` and `sample` blocks stay as written here: they are checked against the dataclass of their
method or stage by `build` where that is imported anyway, so that reading the parameters never costs an import of torch.
"""

import ast
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.config.build import Block, as_block, build, check_keys, nearest, pick, shown
from pipeline.config.entries import (
    KINDS,
    ClassifierEntry,
    DatasetEntry,
    GuidedEntry,
    GuideEntry,
    LaunchEntry,
    RunEntry,
    StackEntry,
    TranslationEntry,
    check_name,
)
from pipeline.config.yaml_file import read_yaml
from pipeline.errors import ConfigError, naming


@dataclass(frozen=True)
class Study:
    """One params.yaml."""

    file: Path
    root: Path  # of the code
    out: Path  # where artifacts lie
    launch: LaunchEntry
    sweeps: dict[str, Block]  # see pipeline/sweeps/entry.py
    datasets: dict[str, DatasetEntry]
    runs: dict[str, RunEntry]
    classifiers: dict[str, ClassifierEntry]
    guides: dict[str, GuideEntry]
    guided: dict[str, GuidedEntry]
    translations: dict[str, TranslationEntry]
    stacks: dict[str, StackEntry]

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def name(self) -> str:
        return self.folder.name if self.root != self.folder else "root"


def load_study(file: Path) -> Study:
    """Read and check everything that can be checked without importing a method."""
    content = read_yaml(file)
    check_keys(content, ["root", "launch", *KINDS, "sweeps"], str(file))
    blocks = {kind: _section(content, kind, file) for kind in (*KINDS, "sweeps")}
    entries = {
        kind: {name: build(entry_type, entry, f"{file.name}: {kind}.{name}") for name, entry in blocks[kind].items()}
        for kind, entry_type in KINDS.items()
    }
    launch = build(LaunchEntry, {} if content.get("launch") is None else content["launch"], f"{file.name}: launch")
    root = (file.parent / _text(content.get("root", "."), f"{file.name}: root")).resolve()
    study = Study(file, root, file.parent / "out", launch, blocks["sweeps"], **entries)
    _check_references(study)
    return study


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ConfigError(f"{where}: {value!r} came, the path of a folder was wanted")
    return value


def _section(content: Block, kind: str, file: Path) -> dict[str, Block]:
    """Its entries; the names that become files, arguments of commands and cells of tables are checked."""
    where = f"{file.name}: {kind}"
    section = as_block({} if content.get(kind) is None else content[kind], where)
    for name, entry in section.items():
        check_name(name, where)
        if "." in name:
            raise ConfigError(f"{where}: the name {name!r} has a dot, which DVC takes as two levels: write - or _")
        as_block(entry, f"{where}.{name}")
        for member in as_block(entry.get("members", {}), f"{where}.{name}.members") if kind == "stacks" else ():
            check_name(member, f"{where}.{name}.members")
        if "table" in entry and kind == "sweeps":
            check_name(entry["table"], f"{where}.{name}.table")
    return section


@lru_cache  # a sweep needs it thousands of times
def method_modules(method: str, root: Path) -> tuple[str, str]:
    """("methods.edm", "EDM") of "edm.EDM", checked against the file without importing it."""
    module, _, cls = method.rpartition(".")
    file = root / "methods" / f"{module}.py"
    if not module.isidentifier() or len(module) > 100 or not file.is_file():
        found = sorted(path.stem for path in (root / "methods").glob("[!_]*.py"))
        near, there = nearest(module, found), ", ".join(found)
        raise ConfigError(f"method {shown(method)}: no methods/{(module or method)[:100]}.py{near}; there are {there}")
    classes = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    if cls not in classes:
        raise ConfigError(
            f"method {shown(method)}: no class {shown(cls)} in methods/{module}.py; it has {', '.join(classes)}"
        )
    return f"methods.{module}", cls


def _check_references(study: Study) -> None:
    for name, dataset in study.datasets.items():
        sources = sorted(path.stem for path in (study.root / "pipeline" / "data" / "datasets").glob("[!_]*.py"))
        if dataset.source not in sources:
            near = nearest(dataset.source, sources)
            there = ", ".join(sources)
            raise ConfigError(
                f"datasets.{name}.source: no pipeline/data/datasets/{dataset.source}.py{near}; there are {there}"
            )
    for kind, trained in (("runs", study.runs), ("classifiers", study.classifiers), ("stacks", study.stacks)):
        for name, entry in trained.items():
            with naming(f"{kind}.{name}"):
                pick(study.datasets, entry.dataset, "dataset")
                method_modules(entry.method, study.root)
                _check_train(entry.train)
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


def _check_train(train: Block) -> None:
    if "imported" in train and train.keys() != {"imported", "format"}:
        raise ConfigError(
            f"train: {', '.join(train)} came, but an imported network is not trained here: give imported and format, "
            "and nothing else"
        )


def _check_guide(study: Study, name: str, guide: GuideEntry) -> None:
    dataset = pick(study.runs, guide.run, "run").dataset
    method_modules(guide.method, study.root)
    _check_train(guide.train)
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
