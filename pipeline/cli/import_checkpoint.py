"""`trilemma import`: check that a checkpoint fits an entry, and print the entry that imports it."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML

from pipeline.config.build import build_method, pick
from pipeline.config.study import load_study
from pipeline.console import say
from pipeline.data.artifacts import read_artifact
from pipeline.errors import UserError
from pipeline.training.importers.checkpoints import NETS, Format, dit_model_of, fit, model_of, read_checkpoint
from pipeline.training.networks import data_spec

TRAINED = ("runs", "classifiers", "guides", "autoencoders")


def print_entry(folder: Path, file: Path, format: str, name: str | None) -> None:
    """The entry on stdout, as YAML. name: of an existing entry, whose networks every tensor must fit."""
    if format not in NETS:
        raise UserError(f"--as: {format!r} came, one of {', '.join(NETS)} was wanted")
    if not file.is_file():
        raise UserError(f"{file} does not exist: pass the checkpoint")
    checkpoint = read_checkpoint(file, cast(Format, format))
    if checkpoint.left_out:
        say(f"{file}: left out {', '.join(checkpoint.left_out)}")
    kind = "runs"
    entry: dict[str, Any] = {"dataset": "DATASET", "method": "edm.EDM", "sample": {}}
    if name is not None:
        study = load_study(folder / "params.yaml")
        kinds = {entry: kind for kind in TRAINED for entry in getattr(study, kind)}
        kind = pick(kinds, name, "run, classifier or guide")
        described = getattr(study, kind)[name]
        dataset = study.runs[described.run].dataset if kind == "guides" else described.dataset
        trunk = getattr(described, "trunk", None)
        model = described.model | ({} if trunk is None else {"trunk": study.classifiers[trunk].model})
        data = data_spec(read_artifact(study.out / "prepare" / dataset).manifest.facts)
        networks = build_method(described.method, model).build(data)
        fit(checkpoint, cast(Format, format), networks, model.get("attention_order"), str(file))
        entry = {key: value for key, value in asdict(described).items() if value is not None}
    elif format == "edm":
        entry["model"] = model_of(checkpoint)
    elif format == "dit":
        entry |= {"method": "iddpm.IDDPM", "model": dit_model_of(checkpoint), "sample": {"clip": False}}
        if "heads" not in entry["model"]:
            say(f"{file}: no tensor shows the number of heads, and its width is none of the paper's: set model.heads")
    else:
        raise UserError(f"a checkpoint of {format} does not describe its network: pass --name with an entry that does")
    entry["train"] = {"imported": str(file), "format": format}
    YAML().dump({kind: {name or file.stem: entry}}, sys.stdout)
