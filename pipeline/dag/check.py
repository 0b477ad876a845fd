"""`trilemma check`, the first stage of a study: DVC hands no name of params.yaml to a shell before it succeeded.

What it writes is for DVC to compare: blocks that params.yaml may leave out, and links to data outside the study and to
its analogues.csv, if there is one.
"""

import os
from dataclasses import asdict
from pathlib import Path

from pipeline.config.entries import KINDS
from pipeline.config.study import PARTS, Study, load_study
from pipeline.dag.graph import STAGES
from pipeline.data.artifacts import OUTSIDE, canonical
from pipeline.errors import UserError

FOLDER = "check"  # in `out`
READING_OUTSIDE = (
    "prepare",
    "autoencode",
    "pretrain",
    "classify",
    "discriminate",
)  # stages that may read data outside the study


def check_study(folder: Path) -> None:
    """Read params.yaml, which refuses names that are unsafe in paths and shells, and write `out/check`."""
    study = load_study(folder / "params.yaml")
    wanted = {Path("README"): "For DVC to compare: see `trilemma check --help`.\n"} | _blocks(study) | _outside(study)
    wanted[Path(study.analogues.name)] = study.analogues.absolute() if study.analogues.is_file() else "no analogues\n"
    place = study.out / FOLDER
    above = {folder for name in wanted for folder in (place / name).parents if folder.is_relative_to(study.out)}
    above |= set(study.out.glob("*"))  # the folders of stages
    for link in sorted(folder for folder in above if folder.is_symlink()):  # else files outside the study are removed
        raise UserError(f"{link} is a link, where DVC accepts no outputs: remove it, or put a folder in its place")
    for name, content in wanted.items():
        _write(place / name, content)
    for path in [path for path in place.rglob("*") if path.is_symlink() or path.is_file()]:
        if path.relative_to(place) not in wanted:
            path.unlink()  # of an entry that is gone; a link, never what it points to


def _blocks(study: Study) -> dict[Path, str]:
    """Every section, and every block of a dataset, with its defaults."""
    blocks = {
        kind: {name: asdict(entry) for name, entry in getattr(study, kind).items()} for kind in KINDS.keys() - PARTS
    }
    files = {Path(f"{kind}.json"): entries for kind, entries in blocks.items()}
    for name, entry in blocks["datasets"].items():
        files |= {Path("datasets", name, f"{block}.json"): value for block, value in entry.items()}
    for name in study.latents:
        like = blocks["datasets"][study.measured_as(name)]
        files |= {Path("datasets", name, f"{block}.json"): like[block] for block in ("evaluate", "options")}
    return {file: f"{canonical(value)}\n" for file, value in files.items()}


def _outside(study: Study) -> dict[Path, str | Path]:
    """By stage and entry, the file or folder that it reads outside the study, or a text if there is none."""
    found: dict[Path, str | Path] = {}
    for stage in READING_OUTSIDE:
        for name in getattr(study, STAGES[stage].entries[0]):
            file = Path("outside", stage, name)
            try:
                found[file] = STAGES[stage].call(study, name).inputs.get(OUTSIDE) or "no data outside the study\n"
            except UserError as error:  # the stage itself will raise it
                found[file] = f"{error}\n"
    return found


def _write(place: Path, content: str | Path) -> None:
    """A file, or a link to a path; what is the same already is left alone."""
    if place.is_symlink() and place.readlink() == content:
        return
    if not place.is_symlink() and place.is_file() and isinstance(content, str) and place.read_text() == content:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    beside.write_text(content) if isinstance(content, str) else beside.symlink_to(content)
    beside.replace(place)
