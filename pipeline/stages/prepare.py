"""prepare: a source's records, checked and written as shards."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from pipeline.artifacts import Artifact, Draft
from pipeline.config import Block, build
from pipeline.errors import UserError
from pipeline.records import Record, Source
from pipeline.shards import Pictures, write_pictures
from pipeline.stage import Around


@dataclass(frozen=True)
class Config:
    source: str
    options: Block


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, around: Around) -> None:
    kind = import_module(f"pipeline.datasets.{config.source}").Source
    source: Source = build(kind, config.options, "options")
    splits: dict[str, list[tuple[int, Record]]] = {"train": [], "held_out": []}
    for number, record in enumerate(source.records()):
        splits[record.split].append((number, record))
    first = splits["train"][0][1]
    for split, records in splits.items():
        for number, record in records:
            _check(record, number, first, len(source.label_names), config.source)
        write_pictures(out.path, split, _pictures(records))
    train = np.stack([record.image for _, record in splits["train"]])
    values = train / 127.5 - 1 if train.dtype == np.uint8 else train
    out.facts.update(
        {split: len(records) for split, records in splits.items()},
        shape=list(first.image.shape),
        classes=len(source.label_names),
        label_names=list(source.label_names),
        std=round(float(values.std()), 6),
        **getattr(source, "facts", {}),
    )


def _check(record: Record, number: int, first: Record, classes: int, source: str) -> None:
    came = f"{source}, record {number}"
    if record.image.shape != first.image.shape or record.image.dtype != first.image.dtype:
        raise UserError(
            f"{came}: {record.image.dtype} of shape {record.image.shape}, but the first record is "
            f"{first.image.dtype} of shape {first.image.shape}: resize the pictures or leave this one out"
        )
    if not np.isfinite(record.image).all():
        raise UserError(f"{came}: holds NaN or infinity: repair the source or leave the record out")
    if classes and (record.label is None or not 0 <= record.label < classes):
        raise UserError(f"{came}: label {record.label}, but there are {classes} classes, 0 to {classes - 1}")


def _pictures(records: list[tuple[int, Record]]) -> Pictures:
    labels: list[Any] = [-1 if record.label is None else record.label for _, record in records]
    return Pictures(
        np.stack([record.image for _, record in records]),
        np.array(labels, np.int64),
        np.array([number for number, _ in records], np.int64),
    )
