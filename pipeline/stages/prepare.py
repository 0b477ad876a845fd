"""prepare: check and decode a source's records and write them as shards, with one shard in memory at a time.

Finished shards are kept in the state, so that a killed preparation resumes after the last one.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from pipeline.config.build import Block, build
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.image_grid import grid
from pipeline.data.records import BadRecord, Record, Source
from pipeline.data.shards import Pictures, decode, encode_arrow, rows_per_shard
from pipeline.errors import UserError

SPLITS = ("train", "held_out")
PREVIEW_IMAGES = 64
MAX_LISTED_BAD_RECORDS = 100


@dataclass(frozen=True)
class Config:
    source: str
    options: Block
    on_bad_record: Literal["stop", "skip"] = "stop"


Numbered = tuple[int, Record]  # a record and its number in the source


class Kind(NamedTuple):
    """The shape and type of the first record, which all others must have, and the number of classes."""

    source: str
    classes: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, source: Source, name: str) -> "Kind":
        """From the first usable record; UserError if there is none."""
        first = ""
        for record in source.records():
            try:
                image = record.load()
            except BadRecord as error:  # counted when its shard is made
                first = first or str(error)
                continue
            return cls(name, len(source.label_names), image.shape, image.dtype)
        raise UserError(f"{name}: no record can be used: {first or 'there are none'}; see its options")

    def checked(self, item: Numbered) -> np.ndarray | str:
        """The image, or why it cannot be used."""
        number, record = item
        came = record.where or f"{self.source}, record {number}"
        try:
            image = record.load()
        except BadRecord as error:
            return str(error)
        if image.shape != self.shape or image.dtype != self.dtype:
            first = f"the first record is {self.dtype} of shape {self.shape}"
            return f"{came}: {image.dtype} of shape {image.shape}, but {first}: set options.preprocess"
        if image.dtype != np.uint8 and not np.isfinite(image).all():
            return f"{came}: holds NaN or infinity"
        if self.classes and (record.label is None or not 0 <= record.label < self.classes):
            return f"{came}: label {record.label}, but there are {self.classes} classes, 0 to {self.classes - 1}"
        return image


@dataclass
class SplitFacts:
    """Counts and moments of the shards of a split so far."""

    count: int = 0
    total: float = 0.0  # of all values in model coordinates
    squares: float = 0.0
    labels: Counter[int] = field(default_factory=Counter)
    digests: list[np.ndarray] = field(default_factory=list)  # uint64, one per image
    bad: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # of each shard

    def add(self, pictures: Pictures, bad: list[str]) -> None:
        """A shard, and why each of the other records was left out."""
        self.count, self.bad = self.count + len(pictures), self.bad + bad
        self.rows.append(len(pictures))
        total, squares = moments(pictures.images)
        self.total, self.squares = self.total + total, self.squares + squares
        self.labels.update(pictures.labels.tolist())
        digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pictures.images]
        self.digests.append(np.frombuffer(b"".join(digests), np.uint64))

    def std(self, values: int) -> float:
        """Standard deviation of all numbers. values: how many numbers an image has."""
        mean = self.total / (self.count * values)
        return round(float(np.sqrt(max(self.squares / (self.count * values) - mean**2, 0.0))), 6)


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    module = import_module(f"pipeline.data.datasets.{config.source}")
    outside = {"path": str(inputs["files"].path)} if "files" in inputs else {}
    source: Source = build(module.Source, config.options | outside, "options")
    names = source.label_names
    by_split = {split: SplitFacts() for split in SPLITS}
    kind = Kind.of(source, config.source)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for split, items in _shards(source, kind):
            facts = by_split[split]
            name = f"{split}-{len(facts.rows):05d}.arrow"
            pictures, bad = _load_or_make(name, items, kind, config, out, context, pool)
            if split == "train" and not facts.rows:
                _preview(pictures, out, context)
            facts.add(pictures, bad)
    for split, facts in by_split.items():
        if facts.count == 0:
            raise UserError(f"{config.source}: no usable record for {split}: see its options")
    train, held_out = (np.unique(np.concatenate(by_split[split].digests)) for split in SPLITS)
    bad = [line for facts in by_split.values() for line in facts.bad]
    out.facts.update(
        {split: facts.count for split, facts in by_split.items()},
        shape=list(kind.shape),
        classes=len(names),
        label_names=list(names),
        std=by_split["train"].std(int(np.prod(kind.shape))),
        class_counts={split: [facts.labels[i] for i in range(len(names))] for split, facts in by_split.items()},
        duplicates={
            "train": by_split["train"].count - len(train),
            "across": len(np.intersect1d(train, held_out, assume_unique=True)),
        },
        bad_records=len(bad),
        rows={split: facts.rows for split, facts in by_split.items()},
        **getattr(source, "facts", {}),
    )
    if bad:
        (out.path / "bad_records.json").write_text(json.dumps(bad[:MAX_LISTED_BAD_RECORDS], indent=1) + "\n")


def moments(images: np.ndarray) -> tuple[float, float]:
    """Sum and sum of squares of all numbers, uint8 scaled to [-1, 1]: exact, by counting grey levels."""
    if images.dtype == np.uint8:
        counts = np.bincount(images.ravel(), minlength=256)
        levels = np.arange(256) / 127.5 - 1
        return float(counts @ levels), float(counts @ levels**2)
    values = images.astype(np.float64)
    return float(values.sum()), float(np.square(values).sum())


def _shards(source: Source, kind: Kind) -> Iterator[tuple[str, list[Numbered]]]:
    """Records of one split at a time, as many as a shard holds."""
    waiting: dict[str, list[Numbered]] = {split: [] for split in SPLITS}
    rows = rows_per_shard(kind.shape, kind.dtype)
    for number, record in enumerate(source.records()):
        waiting[record.split].append((number, record))
        if len(waiting[record.split]) == rows:
            yield record.split, waiting[record.split]
            waiting[record.split] = []
    yield from ((split, rest) for split, rest in waiting.items() if rest)


def _load_or_make(
    name: str, items: list[Numbered], kind: Kind, config: Config, out: Draft, context: RunContext, pool: Executor
) -> tuple[Pictures, list[str]]:
    """The shard of these records, written to `out`; taken from the state if it was made before."""
    content, bad = context.state.load(name), context.state.load(f"{name}.json")
    if content is None or bad is None:
        content, bad = _encoded(name, items, kind, config, pool)
        context.state.save(name, content)
        context.state.save(f"{name}.json", bad)
    (out.path / name).write_bytes(content)
    return decode(out.path / name), json.loads(bad)


def _encoded(name: str, items: list[Numbered], kind: Kind, config: Config, pool: Executor) -> tuple[bytes, bytes]:
    images = np.empty((len(items), *kind.shape), kind.dtype)
    good: list[Numbered] = []
    bad: list[str] = []
    for item, image in zip(items, pool.map(kind.checked, items)):
        if isinstance(image, str):
            bad.append(image)
        else:
            images[len(good)] = image
            good.append(item)
    if bad and config.on_bad_record == "stop":
        raise UserError(
            f"{bad[0]}; {len(bad)} of {len(items)} records of {name} cannot be used: repair them, leave them out, "
            "or set options.on_bad_record: skip"
        )
    labels = [-1 if record.label is None else record.label for _, record in good]
    numbers = np.array([number for number, _ in good], np.int64)
    return encode_arrow(Pictures(images[: len(good)], np.array(labels, np.int64), numbers)), json.dumps(bad).encode()


def _preview(pictures: Pictures, out: Draft, context: RunContext) -> None:
    """A grid of the first images: to the watch, and as preview.png."""
    images = pictures.images[:PREVIEW_IMAGES]
    if images.ndim == 4 and images.shape[1] in (1, 3) and len(images):
        Image.fromarray(grid(images, 8)).save(out.path / "preview.png")
        context.watch.samples("preview", images, 0)
