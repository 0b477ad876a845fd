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
    AutoencoderEntry,
    AutoguidedEntry,
    ClassifierEntry,
    DatasetEntry,
    DerivedEntry,
    GuidedEntry,
    GuideEntry,
    LatentsEntry,
    LaunchEntry,
    RunEntry,
    StackEntry,
    TranslationEntry,
    check_name,
)
from pipeline.config.outside import OURS, locate, make_importable
from pipeline.config.yaml_file import read_yaml
from pipeline.errors import ConfigError, naming

PARTS = {"derived": "runs", "autoguided": "guided"}  # sections whose entries need one input more, in DVC's graph


@dataclass(frozen=True)
class Study:
    """One params.yaml."""

    file: Path
    root: Path  # of the code
    out: Path  # where artifacts lie
    launch: LaunchEntry
    sweeps: dict[str, Block]  # see pipeline/sweeps/entry.py
    datasets: dict[str, DatasetEntry]
    autoencoders: dict[str, AutoencoderEntry]
    latents: dict[str, LatentsEntry]  # datasets too, wherever an entry names one to train on
    runs: dict[str, RunEntry]  # those of `derived` too
    classifiers: dict[str, ClassifierEntry]
    guides: dict[str, GuideEntry]
    guided: dict[str, GuidedEntry]  # those of `autoguided` too
    translations: dict[str, TranslationEntry]
    stacks: dict[str, StackEntry]

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def name(self) -> str:
        return self.folder.name if self.root != self.folder else "root"

    def measured_as(self, dataset: str) -> str:
        """The dataset whose images or points samples are compared with: of latents, that of the autoencoder."""
        return self.autoencoders[self.latents[dataset].of].dataset if dataset in self.latents else dataset

    @property
    def analogues(self) -> Path:
        """Which measured rows answer printed values: beside the printed ones for the root study; may be missing."""
        return (self.root / "reports" / "papers" if self.folder == self.root else self.folder) / "analogues.csv"


def load_study(file: Path) -> Study:
    """Read and check everything that can be checked without importing a method."""
    content = read_yaml(file)
    check_keys(content, ["root", "launch", *KINDS, "sweeps"], str(file))
    blocks = {kind: _section(content, kind, file) for kind in (*KINDS, "sweeps")}
    for name, entry in blocks["runs"].items():
        if "from" in entry:
            raise ConfigError(f"{file.name}: runs.{name}: a run with `from` belongs under `derived`: move it there")
    for name, entry in blocks["datasets"].items():
        if entry.get("source") == "latents":
            raise ConfigError(f"{file.name}: datasets.{name}: latents belong under `latents`: move it there")
    entries = {
        kind: {name: build(entry_type, entry, f"{file.name}: {kind}.{name}") for name, entry in blocks[kind].items()}
        for kind, entry_type in KINDS.items()
    }
    for part, whole in PARTS.items():
        own = entries.pop(part)
        if both := entries[whole].keys() & own.keys():
            raise ConfigError(f"{file.name}: {part}.{min(both)}: an entry of `{whole}` has the same name: rename one")
        entries[whole] |= own
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
def method_modules(method: str, root: Path, folder: Path | None = None) -> tuple[str, str]:
    """("methods.edm", "EDM") of "edm.EDM", checked against the file without importing it.

    ("mypackage.mine", "Mine") of "mypackage.mine.Mine", in an installed package or a module in `folder`, that of
    params.yaml. Once found there, it needs no folder.
    """
    module, _, cls = method.rpartition(".")
    top, file = module.partition(".")[0], root / "methods" / f"{module}.py"
    found = sorted(path.stem for path in (root / "methods").glob("[!_]*.py"))
    if folder is not None and top in (*found, *OURS) and (module != top or (folder / f"{top}.py").is_file()):
        named = f"methods/{top}.py" if top in found else f"the package {top}"
        raise ConfigError(
            f"method {shown(method)}: {top!r} is the name of {named}: rename yours; ours are like edm.EDM"
        )
    if not module.isidentifier() or len(module) > 100 or not file.is_file():
        if folder is not None:
            make_importable(top, folder)
        outside = locate(module) if module else None
        if outside is None:
            near, there = nearest(module, found), ", ".join(found)
            raise ConfigError(
                f"method {shown(method)}: no methods/{(module or method)[:100]}.py{near}; there are {there}; nor a "
                "file beside params.yaml or an installed package of this name"
            )
        _check_class(method, cls, outside, str(outside))
        return module, cls
    _check_class(method, cls, file, f"methods/{module}.py")
    return f"methods.{module}", cls


def _check_class(method: str, cls: str, file: Path, name: str) -> None:
    try:
        classes = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    except SyntaxError as error:
        raise ConfigError(f"method {shown(method)}: {file}:{error.lineno}: {error.msg}: repair the file") from None
    if cls not in classes:
        raise ConfigError(f"method {shown(method)}: no class {shown(cls)} in {name}; it has {', '.join(classes)}")


def _check_references(study: Study) -> None:
    for name, dataset in study.datasets.items():
        sources = sorted(path.stem for path in (study.root / "pipeline" / "data" / "datasets").glob("[!_]*.py"))
        if dataset.source not in sources:
            near = nearest(dataset.source, sources)
            there = ", ".join(sources)
            raise ConfigError(
                f"datasets.{name}.source: no pipeline/data/datasets/{dataset.source}.py{near}; there are {there}"
            )
    for name, encoder in study.autoencoders.items():
        with naming(f"autoencoders.{name}"):
            pick(study.datasets, encoder.dataset, "dataset")
            _check_encodes(encoder.method, study)
            _check_train(encoder.train)
    for name, latents in study.latents.items():
        with naming(f"latents.{name}"):
            pick(study.autoencoders, latents.of, "autoencoder")
            if name in study.datasets:
                raise ConfigError("a dataset has the same name: rename one of them")
    every = {**study.datasets, **study.latents}
    for kind, trained in (("runs", study.runs), ("classifiers", study.classifiers), ("stacks", study.stacks)):
        for name, entry in trained.items():
            with naming(f"{'derived' if isinstance(entry, DerivedEntry) else kind}.{name}"):
                pick(study.datasets if kind == "stacks" else every, entry.dataset, "dataset")
                method_modules(entry.method, study.root, study.folder)
                _check_train(entry.train)
                if kind == "stacks" and entry.model.get("text"):
                    raise ConfigError("model.text: the models of a stack are given classes: leave it out")
                if isinstance(entry, DerivedEntry):
                    _check_derived(study, name, entry)
    for name, guide in study.guides.items():
        with naming(f"guides.{name}"):
            _check_guide(study, name, guide)
    for name, guided in study.guided.items():
        is_autoguided = isinstance(guided, AutoguidedEntry)
        with naming(f"{'autoguided' if is_autoguided else 'guided'}.{name}"):
            dataset = pick(study.runs, guided.run, "run").dataset
            if name in study.runs:
                raise ConfigError("a run has the same name: rename one of them")
            for use in guided.guides:
                pick({**study.guides, **study.classifiers}, use.get("guide", ""), "guide")
                if use["guide"] in study.classifiers:
                    _check_dataset(study, use["guide"], dataset)
            if is_autoguided:
                weaker = pick(study.runs, guided.weaker.get("run", ""), "run").dataset
                if weaker != dataset:
                    raise ConfigError(f"weaker.run: a run on {weaker!r} came, one on {dataset!r} was wanted")
    for name, translation in study.translations.items():
        with naming(f"translations.{name}"):
            if isinstance(pick(study.guided, translation.guided, "guided entry"), AutoguidedEntry):
                raise ConfigError("guided: an autoguided entry cannot translate: name one of `guided`")
            if study.runs[study.guided[translation.guided].run].model.get("text"):
                raise ConfigError("guided: its run needs captions, which a translation does not give: name another")
            if study.runs[study.guided[translation.guided].run].dataset in study.latents:
                raise ConfigError("guided: its run is on latents, and images are translated: name one on images")


def _check_derived(study: Study, name: str, entry: DerivedEntry) -> None:
    dataset = pick(study.runs, entry.from_.run, "run").dataset
    if not entry.from_.roles:
        raise ConfigError("from.as: nothing came, start, teacher or both was wanted")
    if "imported" in entry.train:
        raise ConfigError("train.imported: an imported network is not trained: move it to `runs`, without `from`")
    if dataset != entry.dataset:
        raise ConfigError(
            f"from.run: {entry.from_.run!r} is trained on {dataset!r}, but this run on {entry.dataset!r}: name one of "
            "the same dataset"
        )
    line = [name]
    while isinstance(needing := pick(study.runs, line[-1], "run"), DerivedEntry):
        line.append(needing.from_.run)
        if line[-1] in line[:-1]:
            raise ConfigError(f"from: {' needs '.join(line)}: runs cannot need each other; break the loop")


def _check_train(train: Block) -> None:
    if "imported" in train and train.keys() != {"imported", "format"}:
        raise ConfigError(
            f"train: {', '.join(train)} came, but an imported network is not trained here: give imported and format, "
            "and nothing else"
        )


def _check_guide(study: Study, name: str, guide: GuideEntry) -> None:
    dataset = pick(study.runs, guide.run, "run").dataset
    _check_guides(guide.method, *method_modules(guide.method, study.root, study.folder), study.root)
    _check_train(guide.train)
    if name in study.classifiers:
        raise ConfigError("a classifier has the same name: rename one of them")
    if "trunk" in guide.model:
        raise ConfigError("model.trunk: write `trunk: NAME` of a classifier beside `model`, not in it")
    if guide.trunk is not None:
        pick(study.classifiers, guide.trunk, "classifier")
        _check_dataset(study, guide.trunk, dataset)


def _check_guides(method: str, module: str, cls: str, root: Path) -> None:
    """ConfigError for a class that generates and does not guide: the discriminator of a GAN is no density ratio."""
    defined = _functions(module, cls, root)
    if "sample" in defined and "guide" not in defined:
        raise ConfigError(
            f"method {shown(method)}: it generates images and guides no run (the discriminator of a GAN is no density "
            "ratio): name discriminator_guidance.Discriminator, or another method with `guide`"
        )


def _check_encodes(method: str, study: Study) -> None:
    if not {"encode", "decode"} <= _functions(*method_modules(method, study.root, study.folder), study.root):
        raise ConfigError(f"method {shown(method)}: it has no encode and decode: name autoencoder.KLAutoencoder")


def _functions(module: str, cls: str, root: Path) -> set[str]:
    """Those that a method's class defines itself."""
    ours = root.joinpath(*module.split(".")).with_suffix(".py")
    file = ours if module.startswith("methods.") else locate(module)
    assert file is not None  # `method_modules` read it
    classes = {node.name: node.body for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)}
    return {node.name for node in classes[cls] if isinstance(node, ast.FunctionDef)}


def _check_dataset(study: Study, classifier: str, dataset: str) -> None:
    trained_on = study.classifiers[classifier].dataset
    if trained_on != dataset:
        raise ConfigError(f"classifier {classifier!r} knows {trained_on!r}, but the run's dataset is {dataset!r}")
