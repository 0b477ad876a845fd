"""The settings of entries that are put together from several blocks of params.yaml."""

from typing import Any

from pipeline.config.build import Block, pick
from pipeline.config.entries import AutoguidedEntry, ClassifierEntry, GuideEntry
from pipeline.config.study import Study


def sampler_of(study: Study, name: str) -> dict[str, Any]:
    """The settings for sampling an entry: the run's, overridden by a guided entry's own."""
    run, own = study.runs[run_of(study, name)], {} if name in study.runs else study.guided[name].sample
    sample = run.sample | own
    sampler = {"method": run.method, "model": run.model, "sample": sample, "guides": []}
    if "ema" in sample:  # no field of the method's `Sampling`
        sampler |= {"sample": {key: value for key, value in sample.items() if key != "ema"}, "ema": sample["ema"]}
    if name in study.runs:
        return sampler
    guided = study.guided[name]
    guides = [
        {
            "guide": use["guide"],
            "method": _guide(study, use["guide"]).method,
            "model": model_of(study, use["guide"]),
            "use": {key: value for key, value in use.items() if key != "guide"},
            "trunk": _trunk(study, use["guide"]),
        }
        for use in guided.guides
    ]
    return sampler | {"guides": guides} | (_weaker(study, guided) if isinstance(guided, AutoguidedEntry) else {})


def _weaker(study: Study, entry: AutoguidedEntry) -> dict[str, Any]:
    """The weaker run of an autoguided entry."""
    run, block = study.runs[entry.weaker["run"]], entry.weaker
    use = {key: value for key, value in block.items() if key not in ("run", "ema")}
    return {"weaker": {"method": run.method, "model": run.model, "ema": block.get("ema"), "use": use}}


def _guide(study: Study, name: str) -> ClassifierEntry | GuideEntry:
    return study.classifiers[name] if name in study.classifiers else study.guides[name]


def _trunk(study: Study, name: str) -> str | None:
    """The classifier whose features a guide reads, if there is one."""
    return None if name in study.classifiers else study.guides[name].trunk


def model_of(study: Study, name: str) -> Block:
    """A guide's `model` block, with that of the classifier whose features it reads."""
    own, trunk = _guide(study, name).model, _trunk(study, name)
    return own if trunk is None else own | {"trunk": study.classifiers[trunk].model}


def run_of(study: Study, name: str) -> str:
    """The run that an entry of `runs`, `guided` or `autoguided` samples."""
    pick({**study.runs, **study.guided}, name, "run or guided entry")
    return study.guided[name].run if name in study.guided else name
