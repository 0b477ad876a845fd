"""prepare: a source's records, checked, decoded and written as shards; memory stays flat whatever their number.

Finished shards are kept in the state, so that a killed preparation goes on where it was.
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
PREVIEW = 64  # pictures
NAMED = 100  # bad records whose names are kept


@dataclass(frozen=True)
class Config:
    source: str
    options: Block
    on_bad_record: Literal["stop", "skip"] = "stop"


class Numbered(NamedTuple):
    record: Record
    number: int  # in the source


class Shard(NamedTuple):
    pictures: Pictures
    bad: list[str]  # what was left out, and why


class Kind(NamedTuple):
    """What every record must be: like the first one, and of a known class."""

    source: str
    classes: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, source: Source, name: str) -> "Kind":
        """By the first record that can be used."""
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
        """The picture, or why it cannot be used."""
        record = item.record
        came = record.where or f"{self.source}, record {item.number}"
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
class Tally:
    """What is known of a split after some of its shards."""

    shards: int = 0
    count: int = 0
    total: float = 0.0  # of all values in model coordinates
    squares: float = 0.0
    labels: Counter[int] = field(default_factory=Counter)
    digests: list[np.ndarray] = field(default_factory=list)  # uint64 of each picture
    bad: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # of each shard

    def add(self, shard: Shard) -> None:
        pictures = shard.pictures
        self.shards, self.count, self.bad = self.shards + 1, self.count + len(pictures), self.bad + shard.bad
        self.rows.append(len(pictures))
        total, squares = moments(pictures.images)
        self.total, self.squares = self.total + total, self.squares + squares
        self.labels.update(pictures.labels.tolist())
        found = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pictures.images]
        self.digests.append(np.frombuffer(b"".join(found), np.uint64))

    def std(self, values: int) -> float:
        """Of all values; values: of one picture."""
        mean = self.total / (self.count * values)
        return round(float(np.sqrt(max(self.squares / (self.count * values) - mean**2, 0.0))), 6)


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    module = import_module(f"pipeline.data.datasets.{config.source}")
    outside = {"path": str(inputs["files"].path)} if "files" in inputs else {}
    source: Source = build(module.Source, config.options | outside, "options")
    names = source.label_names
    tallies = {split: Tally() for split in SPLITS}
    kind = Kind.of(source, config.source)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for split, items in _shards(source, kind):
            tally = tallies[split]
            shard = _made(f"{split}-{tally.shards:05d}.arrow", items, kind, config, out, context, pool)
            if split == "train" and tally.shards == 0:
                _preview(shard.pictures, out, context)
            tally.add(shard)
    for split, tally in tallies.items():
        if tally.count == 0:
            raise UserError(f"{config.source}: no usable record for {split}: see its options")
    train, held_out = (np.unique(np.concatenate(tallies[split].digests)) for split in SPLITS)
    bad = [line for tally in tallies.values() for line in tally.bad]
    out.facts.update(
        {split: tally.count for split, tally in tallies.items()},
        shape=list(kind.shape),
        classes=len(names),
        label_names=list(names),
        std=tallies["train"].std(int(np.prod(kind.shape))),
        class_counts={split: [tally.labels[i] for i in range(len(names))] for split, tally in tallies.items()},
        duplicates={
            "train": tallies["train"].count - len(train),
            "across": len(np.intersect1d(train, held_out, assume_unique=True)),
        },
        bad_records=len(bad),
        rows={split: tally.rows for split, tally in tallies.items()},
        **getattr(source, "facts", {}),
    )
    if bad:
        (out.path / "bad_records.json").write_text(json.dumps(bad[:NAMED], indent=1) + "\n")


def moments(images: np.ndarray) -> tuple[float, float]:
    """Sum and sum of squares of all values in model coordinates; exact for uint8, by counting grey levels."""
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
        waiting[record.split].append(Numbered(record, number))
        if len(waiting[record.split]) == rows:
            yield record.split, waiting[record.split]
            waiting[record.split] = []
    yield from ((split, rest) for split, rest in waiting.items() if rest)


def _made(
    name: str, items: list[Numbered], kind: Kind, config: Config, out: Draft, context: RunContext, pool: Executor
) -> Shard:
    """The shard of these records, in `out`; from the state if it was made before."""
    kept, notes = context.state.load(name), context.state.load(f"{name}.json")
    if kept is None or notes is None:
        kept, notes = _encoded(name, items, kind, config, pool)
        context.state.save(name, kept)
        context.state.save(f"{name}.json", notes)
    (out.path / name).write_bytes(kept)
    return Shard(decode(out.path / name), json.loads(notes))


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
    labels = [-1 if item.record.label is None else item.record.label for item in good]
    numbers = np.array([item.number for item in good], np.int64)
    return encode_arrow(Pictures(images[: len(good)], np.array(labels, np.int64), numbers)), json.dumps(bad).encode()


def _preview(pictures: Pictures, out: Draft, context: RunContext) -> None:
    """A grid of the first pictures, for those who look on and beside the data."""
    if pictures.images.ndim != 4 or pictures.images.shape[1] not in (1, 3) or len(pictures) == 0:
        return
    shown = pictures.images[:PREVIEW]
    Image.fromarray(grid(shown, 8)).save(out.path / "preview.png")
    context.watch.samples("preview", shown, 0)
