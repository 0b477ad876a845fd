"""From a name in params.yaml to one call of a stage: its inputs, its settings, its output folder, and its key.

The inputs of every stage are defined here and nowhere else. Neither torch nor other slow libraries are imported: a call
whose result is stored does not need them.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.build import Block, pick
from pipeline.config.entries import (
    AutoencoderEntry,
    AutoguidedEntry,
    ClassifierEntry,
    DerivedEntry,
    GuideEntry,
    RunEntry,
)
from pipeline.config.study import Study, method_modules
from pipeline.dag.code_version import code_version
from pipeline.dag.entry_settings import model_of, run_of, sampler_of
from pipeline.data.artifacts import OUTSIDE, key_of
from pipeline.errors import ConfigError
from pipeline.metrics.features.weights import INCEPTION, KNOWN, verified_path, weights_folder
from pipeline.store.external import locate

Trained = AutoencoderEntry | RunEntry | ClassifierEntry | GuideEntry


@dataclass(frozen=True)
class Call:
    """One execution of a stage."""

    stage: str
    name: str  # the entry of params.yaml
    dataset: str
    inputs: dict[str, Path]  # artifacts by role; under OUTSIDE, a file or folder that no stage makes
    config: dict[str, Any]  # checked against the stage's `Config` when it runs
    modules: tuple[str, ...]  # whose code determines the result
    out: Path

    @property
    def verb(self) -> str:
        """The command of the call: that of the training also where its network is imported."""
        return self.out.parent.name

    @property
    def made(self) -> dict[str, Path]:
        """The inputs that are results of other calls."""
        return {role: path for role, path in self.inputs.items() if role != OUTSIDE}

    def key(self, root: Path, input_digests: Mapping[str, str]) -> str:
        return key_of(self.stage, self.config, input_digests, code_version(self.modules, root))


def prepare(study: Study, name: str) -> Call:
    if name in study.latents:
        inputs = {"data": _out(study, "prepare", study.measured_as(name))}
        return _of_latents(study, "prepare-latents", "prepare", name, inputs, {"scaling": study.latents[name].scaling})
    dataset = pick(study.datasets, name, "dataset")
    options = dict(dataset.options)
    path, on_bad_record = options.pop("path", None), options.pop("on_bad_record", None)
    if options.get("outlines") == "any":  # what this machine has is a setting of the call
        from pipeline.data.glyph_outlines import outlines_sha256  # here: numpy is slow to import

        options["outlines"] = outlines_sha256()
    config = {"source": dataset.source, "options": options}
    config |= {"on_bad_record": on_bad_record} if on_bad_record is not None else {}
    inputs = {} if path is None else {OUTSIDE: locate(path, study.folder, f"datasets.{name}.options.path")}
    return _call(study, "prepare", name, name, inputs, config, f"pipeline.data.datasets.{dataset.source}")


def features(study: Study, name: str) -> Call:
    """The downloaded weights of a feature network are no file of the study: their digest is a setting of this call.

    Latents have no features of their own: their images are reconstructed, and measured as the images of a run would be.
    """
    if name in study.latents:
        inputs = _real(study, measured_as := study.measured_as(name)) | {"latents": _out(study, "prepare", name)}
        config = {"images": study.datasets[measured_as].evaluate.images}
        return _of_latents(study, "reconstruct", "features", name, inputs, config)
    dataset = pick(study.datasets, name, "dataset")
    config = dataset.features | {"images": dataset.evaluate.images}
    if "inception" in config:
        config |= {"inception": _inception(config["inception"], name)}
    return _call(study, "features", name, name, {"data": _out(study, "prepare", name)}, config)


def check_metrics(study: Study, name: str) -> Call:
    """Cases with known answers for the dataset's metrics, at the n that every run is measured at."""
    dataset = pick(study.datasets, name, "dataset")
    inputs = {"data": _out(study, "prepare", name), "features": _out(study, "features", name)}
    return _call(study, "check-metrics", name, name, inputs, {"images": dataset.evaluate.images})


def autoencode(study: Study, name: str) -> Call:
    encoder = pick(study.autoencoders, name, "autoencoder")
    return _training(study, "autoencode", name, encoder, encoder.dataset, encoder.model)


def pretrain(study: Study, name: str) -> Call:
    """A derived run has the run it needs as an input."""
    run = pick(study.runs, name, "run")
    call = _training(study, "pretrain", name, run, run.dataset, run.model)
    if not isinstance(run, DerivedEntry):
        return call
    other = run.from_.run
    inputs, modules = {"from": _out(study, "pretrain", other)}, (_module(study, study.runs[other].method),)
    config = call.config | {"roles": run.from_.roles}
    return replace(call, inputs=call.inputs | inputs, config=config, modules=call.modules + modules)


def generate(study: Study, name: str) -> Call:
    """Fakes that a guide trains against: like `sample`, with seeds that no evaluated image has.

    Guides of one run have one key, so their fakes are sampled once.
    """
    run = pick(study.guides, name, "guide").run
    dataset = study.measured_as(study.runs[run].dataset)
    config = {"sampler": sampler_of(study, run), "images": study.datasets[dataset].fakes}
    return replace(_sample_call(study, "generate", run, config), name=name, out=_out(study, "generate", name))


def classify(study: Study, name: str) -> Call:
    """The training of a guide that learns from data alone."""
    classifier = pick(study.classifiers, name, "classifier")
    return _training(study, "classify", name, classifier, classifier.dataset, classifier.model)


def discriminate(study: Study, name: str) -> Call:
    """The training of a guide that learns to distinguish data from fakes."""
    guide = pick(study.guides, name, "guide")
    call = _training(study, "discriminate", name, guide, study.runs[guide.run].dataset, model_of(study, name))
    if call.stage != "discriminate":  # an import needs no fakes
        return call
    trunk = {} if guide.trunk is None else {"trunk": _out(study, "classify", guide.trunk)}
    return replace(call, inputs=call.inputs | {"fakes": _out(study, "generate", name)} | trunk)


def sample(study: Study, name: str) -> Call:
    """The images to evaluate, of a run or a guided entry; both use the same seeds. Latents are decoded."""
    dataset = study.runs[run_of(study, name)].dataset
    evaluation = study.datasets[study.measured_as(dataset)].evaluate
    sampler = sampler_of(study, name)
    if dataset not in study.latents:
        return _sample_call(study, "sample", name, {"sampler": sampler} | asdict(evaluation))
    decoder = study.autoencoders[of := study.latents[dataset].of]
    sampler |= {"decoder": {"method": decoder.method, "model": decoder.model}}
    call = _sample_call(study, "sample", name, {"sampler": sampler} | asdict(evaluation))
    inputs = call.inputs | {"autoencoder": _out(study, "autoencode", of)}
    return replace(call, inputs=inputs, modules=(*call.modules, _module(study, decoder.method)))


def evaluate(study: Study, name: str) -> Call:
    dataset = study.measured_as(study.runs[run_of(study, name)].dataset)
    inputs = _real(study, dataset) | {"samples": _out(study, "sample", name)}
    return _call(study, "evaluate", name, dataset, inputs, {})


def translate(study: Study, name: str) -> Call:
    """Image to image: sampling by a guided entry's networks that starts from images."""
    entry = pick(study.translations, name, "translation")
    dataset = study.runs[study.guided[entry.guided].run].dataset
    settings = {key: value for key, value in asdict(entry).items() if key != "guided"}
    call = _sample_call(study, "translate", entry.guided, {"sampler": sampler_of(study, entry.guided)} | settings)
    return replace(call, name=name, inputs=_real(study, dataset) | call.inputs, out=_out(study, "translate", name))


def stack(study: Study, name: str) -> Call:
    """All members of a stack, trained as one."""
    entry = pick(study.stacks, name, "stack")
    config = {key: getattr(entry, key) for key in ("method", "model", "members", "train")}
    inputs = {"data": _out(study, "prepare", entry.dataset)}
    return _call(study, "stack", name, entry.dataset, inputs, config, _module(study, entry.method))


def evaluate_stack(study: Study, name: str) -> Call:
    entry = pick(study.stacks, name, "stack")
    config = {key: getattr(entry, key) for key in ("method", "model", "members", "sample")}
    config |= asdict(study.datasets[entry.dataset].evaluate)
    inputs = _real(study, entry.dataset) | {"stack": _out(study, "stack", name)}
    return _call(study, "evaluate-stack", name, entry.dataset, inputs, config, _module(study, entry.method))


class Stage(NamedTuple):
    """A row of the table of stages."""

    call: Callable[[Study, str], Call]
    summary: str  # for `--help`
    entries: tuple[str, ...]  # sections of params.yaml that it is called with
    unit: str = "images"  # of its progress
    trains: bool = False  # with a seed that is a training seed
    fans_out: bool = True  # over workers, if there are any


PREPARE = "Check a dataset's records, or encode its images, and write them as shards."
FEATURES = "Train the dataset's feature network; precompute statistics and real-vs-real values."
CHECK_METRICS = "Check that the dataset's metrics detect seeded faults with known answers."
DISCRIMINATE = "Train a guide to discriminate real images from fakes."
TRANSLATE = "Translate corrupted images, with and without guides, and write reports/translations/NAME."

STAGES: dict[str, Stage] = {
    "prepare": Stage(prepare, PREPARE, ("datasets", "latents"), fans_out=False),
    "features": Stage(features, FEATURES, ("datasets", "latents"), fans_out=False),
    "check-metrics": Stage(check_metrics, CHECK_METRICS, ("datasets",), fans_out=False),
    "autoencode": Stage(autoencode, "Train an autoencoder of images.", ("autoencoders",), "steps", trains=True),
    "pretrain": Stage(pretrain, "Train a run's generator.", ("runs",), "steps", trains=True),
    "generate": Stage(generate, "Sample the fakes that a guide trains against.", ("guides",)),
    "classify": Stage(classify, "Train a guide to classify noisy images.", ("classifiers",), "steps", trains=True),
    "discriminate": Stage(discriminate, DISCRIMINATE, ("guides",), "steps", trains=True),
    "sample": Stage(sample, "Sample the images to evaluate, of a run or a guided entry.", ("runs", "guided")),
    "evaluate": Stage(evaluate, "Measure the sampled images.", ("runs", "guided"), "sets"),
    "translate": Stage(translate, TRANSLATE, ("translations",), fans_out=False),
    "stack": Stage(stack, "Train all members of a stack as one.", ("stacks",), "steps"),
    "evaluate-stack": Stage(evaluate_stack, "Sample and measure every member of a stack.", ("stacks",), "models"),
}


def stage_module(stage: str) -> str:
    """The module of a stage's function `run`, also of "import-checkpoint", which other stages' commands call."""
    return f"pipeline.stages.{stage.replace('-', '_')}"


def chain(study: Study, stage: str, name: str) -> list[Call]:
    """The call of a stage and those that make its inputs, every call after its inputs."""
    calls: dict[Path, Call] = {}

    def visit(call: Call) -> None:
        for path in call.made.values():
            if path not in calls:
                visit(STAGES[path.parent.name].call(study, path.name))
        calls[call.out] = call

    visit(STAGES[stage].call(study, name))
    return list(calls.values())


def entries(study: Study) -> dict[str, list[str]]:
    """The names each stage is called with, in the order of params.yaml."""
    names = {
        name: [entry for section in stage.entries for entry in getattr(study, section)]
        for name, stage in STAGES.items()
    }
    return names | {"generate": [guide for guide in names["generate"] if not is_imported(study, guide)]}


def is_imported(study: Study, guide: str) -> bool:
    """Such a guide needs no fakes."""
    return "imported" in study.guides[guide].train


def taught(study: Study, name: str) -> Path:
    """The artifact of a guide or classifier."""
    return _out(study, "classify" if name in study.classifiers else "discriminate", name)


def _inception(wanted: object, dataset: str) -> str | None:
    """SHA-256 of the weights, or None where they are not downloaded."""
    if wanted != "auto":
        raise ConfigError(f"datasets.{dataset}.features.inception: {wanted!r} came, auto was wanted, or no such line")
    known = KNOWN[INCEPTION]
    return known.sha256 if verified_path(INCEPTION, weights_folder(), known) else None


def _sample_call(study: Study, stage: str, name: str, config: dict[str, Any]) -> Call:
    base, sampler = run_of(study, name), config["sampler"]
    inputs = {"run": _out(study, "pretrain", base)}
    if sampler["model"].get("text"):  # samples take captions of the data
        inputs["captions"] = _out(study, "prepare", study.runs[base].dataset)
    for use in sampler["guides"]:
        inputs |= {name: taught(study, name) for name in (use["guide"], use["trunk"]) if name is not None}
    parts = [sampler, *sampler["guides"]]
    if isinstance(entry := study.guided.get(name), AutoguidedEntry):
        inputs["weaker"] = _out(study, "pretrain", entry.weaker["run"])
        parts.append(sampler["weaker"])
    modules = [_module(study, part["method"]) for part in parts]
    return _call(study, stage, name, study.runs[base].dataset, inputs, config, *modules)


def _of_latents(
    study: Study, stage: str, verb: str, name: str, inputs: dict[str, Path], config: dict[str, Any]
) -> Call:
    """A stage that uses the autoencoder of latents, in place of the one that `verb` names for images."""
    encoder = study.autoencoders[of := study.latents[name].of]
    inputs |= {"autoencoder": _out(study, "autoencode", of)}
    config |= {"method": encoder.method, "model": encoder.model}
    call = _call(study, stage, name, name, inputs, config, _module(study, encoder.method))
    return replace(call, out=_out(study, verb, name))


def _training(study: Study, stage: str, name: str, entry: Trained, dataset: str, model: Block) -> Call:
    """The call that trains an entry's networks; or, with `train.imported`, the one that imports them.

    An import leaves its artifact where the training would, so that all stages that read it find it there. The content
    of the imported file enters the key, not its name.
    """
    config, inputs = {"method": entry.method, "model": model}, {"data": _out(study, "prepare", dataset)}
    module = _module(study, entry.method)
    if "imported" not in entry.train:
        return _call(study, stage, name, dataset, inputs, config | {"train": entry.train}, module)
    inputs[OUTSIDE] = locate(entry.train["imported"], study.folder, f"{stage} {name}: train.imported")
    config["format"] = entry.train["format"]
    call = _call(study, "import-checkpoint", name, dataset, inputs, config, module)
    return replace(call, out=_out(study, stage, name))


def _call(
    study: Study, stage: str, name: str, dataset: str, inputs: dict[str, Path], config: dict[str, Any], *modules: str
) -> Call:
    return Call(stage, name, dataset, inputs, config, (stage_module(stage), *modules), _out(study, stage, name))


def _module(study: Study, method: str) -> str:
    return method_modules(method, study.root)[0]


def _out(study: Study, stage: str, name: str) -> Path:
    return study.out / stage / name


def _real(study: Study, dataset: str) -> dict[str, Path]:
    """The inputs of a stage that measures."""
    return {stage: _out(study, stage, dataset) for stage in ("prepare", "features")}
