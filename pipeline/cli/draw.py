"""`trilemma draw`: a few pictures of a trained run, of one caption or class, as one PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipeline.config.build import build
from pipeline.config.study import load_study
from pipeline.dag.graph import STAGES
from pipeline.data.artifacts import read_artifact
from pipeline.data.captions import tokens_of
from pipeline.data.image_grid import grid
from pipeline.errors import UserError
from pipeline.sampling.counting import as_stored
from pipeline.sampling.sampler import GuidedSampler, SamplerConfig, sampler_spec
from pipeline.training.networks import is_captioned

COLUMNS = 8


def draw(folder: Path, name: str, out: Path, caption: str | None, label: str | None, n: int, seed: int) -> None:
    """name: a run or guided entry of the study in `folder`. Without caption and label: those of evaluated samples."""
    if out.suffix != ".png" or not out.parent.is_dir():
        raise UserError(f"{out}: a file FILE.png in a folder that exists was wanted")
    study = load_study(folder / "params.yaml")
    call = STAGES["sample"].call(study, name)
    facts = read_artifact(study.out / "prepare" / call.dataset).manifest.facts
    inputs = {role: read_artifact(path) for role, path in call.inputs.items()}
    sampler = GuidedSampler(sampler_spec(inputs, build(SamplerConfig, call.config["sampler"], name)))
    if len(sampler.data.shape) != 3 or sampler.data.shape[0] not in (1, 3):
        raise UserError(f"{name}: samples have shape {list(sampler.data.shape)}: grey or colour pictures can be drawn")
    row = _condition(sampler, facts, name, caption, label)
    tiles = sampler.sample(range(seed, seed + n), label_of=None if row is None else lambda seed: row)
    Image.fromarray(grid(as_stored(torch.cat([tile.cpu() for tile in tiles]), sampler.data), COLUMNS)).save(out)


def _condition(
    sampler: GuidedSampler, facts: Mapping[str, Any], name: str, caption: str | None, label: str | None
) -> int | list[int] | None:
    """The class of all pictures; class and tokens of a run with captions; None for those of evaluated samples."""
    is_text = is_captioned(sampler.method)
    if caption is None and label is None:
        return None
    if caption is not None:
        if not is_text:
            raise UserError(f"--caption: {name} is not conditioned on captions (model.text): leave it out")
        number = 0 if label is None else _class(facts, label)  # for guides alone
        return [number, *tokens_of(caption, facts)]
    if is_text or not getattr(sampler.method, "conditional", True):
        what = "captions: pass --caption" if is_text else "nothing: leave it out"
        raise UserError(f"--label: {name} is conditioned on {what}")
    return _class(facts, label or "")


def _class(facts: Mapping[str, Any], label: str) -> int:
    names = facts["label_names"]
    if label in names:
        return names.index(label)
    if label.isdecimal() and int(label) < len(names):
        return int(label)
    raise UserError(f"--label: {label!r} came, one of {', '.join(names) or 'none'} or its number was wanted")
