"""What stands in for a result that is not there yet, so that the stages after it can be tried: real data, networks that
have learned nothing, and noise for samples."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from methods.core.loop import TrainState
from methods.core.types import DataSpec
from pipeline.config.build import build, build_method
from pipeline.dag.graph import Call
from pipeline.dag.plan_meter import MIB, Peak, Spent
from pipeline.dag.plan_probe import Cost, share_read
from pipeline.dag.run import stage_config
from pipeline.data.artifacts import OUTSIDE, Artifact, Draft
from pipeline.data.records import BadRecord, Record, Source
from pipeline.data.shards import Pictures, encode_arrow, write_pictures
from pipeline.errors import UserError
from pipeline.stages import features, prepare
from pipeline.stages.generate import FIRST_SEED
from pipeline.stages.sample import STRIDE
from pipeline.store.publish import new_artifact
from pipeline.training.networks import data_spec, save_weights
from pipeline.training.stacked import StackTrain, Trainee, members_of

MOST = 20_000  # records that are read of each split, which is more than any metric's usual n


def prepare_cost(call: Call, inputs: Mapping[str, Artifact], out: Path) -> Cost:
    """As it stands in for the prepared data, in proportion to the records it read."""
    peak, begin = Peak(), Spent.now()
    with peak.watching():
        made = stand_in(call, inputs, out)
    share = share_read({"data": made})
    disk = share * sum(file.bytes for file in made.manifest.files.values()) / MIB
    return Cost(Spent.now().since(begin).times(share), peak.mib, disk)


def stand_in(call: Call, inputs: Mapping[str, Artifact], out: Path) -> Artifact:
    """In place of what `call` would make of its inputs."""
    with new_artifact(out, call.stage, call.name, call.config, {}) as draft:
        match call.stage:
            case "prepare":
                _read(call, inputs, draft)
            case "features":
                features.run(inputs, replace(stage_config(call), epochs=1), draft, cast(Any, None))
            case "pretrain" | "classify" | "discriminate" | "import_checkpoint":
                _untrained(call.config, data_spec(inputs["data"].manifest.facts), "trunk" in inputs, draft)
            case "stack":
                _untrained_stack(call.config, data_spec(inputs["data"].manifest.facts), draft)
            case "generate":
                _noise(inputs, {"samples": (FIRST_SEED, call.config["images"])}, draft)
            case "sample":
                sets = {f"samples-{n}": (n * STRIDE, call.config["images"]) for n in range(call.config["sample_seeds"])}
                _noise(inputs, sets, draft)
    return draft.artifact


def _read(call: Call, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """The first records of each split; the others are counted."""
    outside = {"path": str(inputs[OUTSIDE].path)} if OUTSIDE in inputs else {}
    kind = import_module(f"pipeline.data.datasets.{call.config['source']}").Source
    source: Source = build(kind, call.config["options"] | outside, f"datasets.{call.name}.options")
    images: dict[str, list[np.ndarray]] = {split: [] for split in prepare.SPLITS}
    labels: dict[str, list[int]] = {split: [] for split in prepare.SPLITS}
    records = 0
    for record in source.records():
        records += 1
        image = _loaded(record) if len(images[record.split]) < MOST else None
        if image is not None:
            images[record.split].append(image)
            labels[record.split].append(-1 if record.label is None else record.label)
    for split, found in images.items():
        if not found:
            raise UserError(f"datasets.{call.name}: no usable record for {split}: see its options")
        stacked, numbers = np.stack(found), np.arange(len(found), dtype=np.int64)
        pictures = Pictures(stacked, np.array(labels[split], np.int64), numbers)
        (draft.path / f"{split}-00000.arrow").write_bytes(encode_arrow(pictures))
    train, (total, squares) = np.stack(images["train"]), prepare.moments(np.stack(images["train"]))
    std = float(np.sqrt(max(squares / train.size - (total / train.size) ** 2, 0.0)))
    draft.facts.update({split: len(found) for split, found in images.items()}, records=records, std=round(std, 6))
    draft.facts.update(shape=list(train.shape[1:]), classes=len(source.label_names), **getattr(source, "facts", {}))


def _loaded(record: Record) -> np.ndarray | None:
    try:
        return record.load()
    except BadRecord:  # its stage will say so
        return None


def _untrained(config: Mapping[str, Any], data: DataSpec, stands_on_trunk: bool, draft: Draft) -> None:
    method = build_method(config["method"], config["model"])
    dtype = torch.float64 if config.get("train", {}).get("precision") == "float64" else torch.float32
    weights = TrainState.fresh(method, data, 0, dtype=dtype).weights(method.players())
    if stands_on_trunk:
        del weights["trunk"]
    save_weights(draft.path, weights)
    draft.facts.update(shape=list(data.shape), classes=data.classes, std=data.std, steps=0)


def _untrained_stack(config: Mapping[str, Any], data: DataSpec, draft: Draft) -> None:
    train = build(StackTrain, config["train"], "train")
    for name, method in members_of(config["method"], config["model"], config["members"]).items():
        weights: dict[str, dict[str, Tensor]] = TrainState.fresh(method, data, 0).weights(method.players())
        for seed in range(train.seeds):
            folder = draft.path / Trainee(name, seed).folder
            folder.mkdir(parents=True)
            save_weights(folder, weights)
    draft.facts.update(shape=list(data.shape), classes=data.classes, std=data.std, steps=train.steps, batch=train.batch)
    draft.seeds.update(train=list(range(train.seeds)))


def _noise(inputs: Mapping[str, Artifact], sets: Mapping[str, tuple[int, int]], draft: Draft) -> None:
    """sets: first seed and number of images of each."""
    facts, rng = inputs["run"].manifest.facts, np.random.default_rng(0)
    for name, (first, number) in sets.items():
        seeds = np.arange(first, first + number, dtype=np.int64)
        shape = (number, *facts["shape"])
        is_picture = len(facts["shape"]) == 3
        images = rng.integers(256, size=shape, dtype=np.uint8) if is_picture else rng.normal(size=shape)
        images = images if is_picture else (images * facts["std"]).astype(np.float32)
        labels = seeds % facts["classes"] if facts["classes"] else np.full(number, -1, np.int64)
        write_pictures(draft.path, name, Pictures(images, labels, seeds))
        draft.seeds[name] = [first, first + number]
    draft.facts.update(
        shape=facts["shape"], classes=facts["classes"], images=sum(number for _, number in sets.values())
    )
    draft.facts.update(nfe=0, guide_calls=0)
