"""`trilemma import`: is this file a network that an entry describes, and which entry makes a run of it?"""

import sys
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML

from pipeline.artifacts import read_artifact
from pipeline.config import build_method, load_study, pick
from pipeline.errors import UserError
from pipeline.importers.checkpoints import Format, fit, formats, model_of, read_checkpoint
from pipeline.weights import data_spec

METHODS = {"edm": "edm.EDM", "adm": "iddpm.IDDPM", "iddpm": "iddpm.IDDPM", "ddgan": "ddgan.DDGAN"}


def print_entry(folder: Path, file: Path, format: str, name: str | None) -> None:
    """The entry on stdout, as YAML; with the name of one that is there, checked against its networks to the letter."""
    if format not in formats():
        raise UserError(f"--as: {format!r} came, one of {', '.join(formats())} was wanted")
    if not file.is_file():
        raise UserError(f"{file} does not exist: pass the checkpoint")
    kind = cast(Format, format)
    read = read_checkpoint(file, kind)
    entry: dict[str, Any] = {"dataset": "DATASET", "method": METHODS.get(format, ""), "model": {}, "sample": {}}
    if name is not None:
        study = load_study(folder / "params.yaml")
        run = pick(study.runs, name, "run")
        data = data_spec(read_artifact(study.folder / "out" / "prepare" / run.dataset).manifest.facts)
        fit(read, kind, build_method(run.method, run.model).build(data), str(file))
        entry |= {"dataset": run.dataset, "method": run.method, "model": run.model, "sample": run.sample}
    elif format == "edm":
        entry["model"] = model_of(read)
    else:
        raise UserError(f"a checkpoint of {format} does not say what it is of: pass --name with an entry that does")
    entry["train"] = {"imported": str(file), "format": format}
    YAML().dump({"runs": {name or file.stem: entry}}, sys.stdout)
