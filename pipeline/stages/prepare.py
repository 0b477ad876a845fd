"""prepare: check and decode a source's records and write them as shards, with one shard in memory at a time.

Pictures from files are decoded in the order of the files into parts, and then copied into shards in an order that
follows from their content; other records become shards in the order of their source. Finished parts are kept in the
state, so that a killed preparation resumes after the last one.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from pipeline.config.build import Block, build
from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact, Draft
from pipeline.data.decode import PIXELS
from pipeline.data.image_grid import grid
from pipeline.data.record_kind import Kind, Numbered
from pipeline.data.records import DARK, Source, too_dark
from pipeline.data.sample_order import ORDER, divided, in_content_order
from pipeline.data.shards import Pictures, decode, encode_arrow, rows_per_shard
from pipeline.data.split_facts import SplitFacts
from pipeline.errors import UserError

SPLITS = ("train", "held_out")  # a source may add others
PREVIEW_IMAGES = 64
MAX_LISTED_BAD_RECORDS = 100


@dataclass(frozen=True)
class Config:
    source: str
    options: Block
    on_bad_record: Literal["stop", "skip"] = "stop"


class Part(NamedTuple):
    """Records that were decoded together."""

    pictures: Pictures
    bad: list[str]  # why each of the other records was left out
    conversions: dict[str, int]  # how many pictures each rule of `PIXELS` changed


def run(inputs: Mapping[str, Artifact], config: Config, out: Draft, context: RunContext) -> None:
    module = import_module(f"pipeline.data.datasets.{config.source}")
    outside = {"path": str(inputs["files"].path)} if "files" in inputs else {}
    source: Source = build(module.Source, config.options | outside, "options")
    kind = Kind.of(source, config.source)
    by_split = defaultdict[str, SplitFacts](SplitFacts, {split: SplitFacts() for split in SPLITS})
    bad, conversions = list[str](), Counter[str]()
    with TemporaryDirectory(dir=out.path) as parts:
        folder, split_of = Path(parts) if kind.is_encoded else out.path, dict[str, str]()
        for name, split, part in _parts(source, kind, config, folder, context):
            split_of[name] = split
            bad += part.bad
            conversions.update(part.conversions)
            if not kind.is_encoded:
                by_split[split].add(part.pictures)
        if kind.is_encoded:
            for split, shard in _in_content_order(folder, split_of, source, kind):
                (out.path / f"{split}-{len(by_split[split].rows):05d}.arrow").write_bytes(encode_arrow(shard))
                by_split[split].add(shard)
    _check_splits(by_split, source.label_names, kind)
    _preview(decode(out.path / "train-00000.arrow"), out, context)
    out.facts.update(_facts(source, kind, by_split), bad_records=len(bad))
    if kind.is_encoded:
        out.facts.update(_about_files(source, conversions, by_split))
    if bad:
        (out.path / "bad_records.json").write_text(json.dumps(bad[:MAX_LISTED_BAD_RECORDS], indent=1) + "\n")


def _facts(source: Source, kind: Kind, by_split: Mapping[str, SplitFacts]) -> dict[str, Any]:
    train, held_out = (np.unique(np.concatenate(by_split[split].digests)) for split in SPLITS)
    names = source.label_names
    return {
        **{split: facts.count for split, facts in by_split.items()},
        "shape": list(kind.shape),
        "classes": len(names),
        "label_names": list(names),
        "std": by_split["train"].std(int(np.prod(kind.shape))),
        "class_counts": {split: [facts.labels[i] for i in range(len(names))] for split, facts in by_split.items()},
        "duplicates": {
            "train": by_split["train"].count - len(train),
            "across": len(np.intersect1d(train, held_out, assume_unique=True)),
        },
        "rows": {split: facts.rows for split, facts in by_split.items()},
        **kind.facts(source),
        **getattr(source, "facts", {}),
    }


def _check_splits(by_split: Mapping[str, SplitFacts], names: Iterable[str], kind: Kind) -> None:
    for split, facts in by_split.items():
        if facts.count == 0:
            raise UserError(f"{kind.source}: no usable record for {split}: see its options")
    empty = [(i, name) for i, name in enumerate(names) if not by_split["train"].labels[i]]
    if empty and kind.is_encoded:
        raise UserError(
            f"{kind.source}: no training picture has label {empty[0][0]} ({empty[0][1]}), {len(empty)} such classes of "
            f"{kind.classes}: number the classes from 0, or leave out those without pictures"
        )


def _about_files(source: Source, conversions: Mapping[str, int], splits: Mapping[str, SplitFacts]) -> dict[str, Any]:
    """Facts of pictures from files: how they were read and ordered, and what was not read."""
    largest = int(max(facts.largest for facts in splits.values()))
    warnings = [too_dark(largest)] if largest <= DARK else []
    return {
        "order": ORDER,
        "pixels": {"rules": PIXELS, "changed": dict(sorted(conversions.items()))},
        "left_out": list(getattr(source, "left_out", ())),
        "warnings": warnings,
    }


def _shards(source: Source, kind: Kind) -> Iterator[tuple[str, list[Numbered]]]:
    """Records of one split at a time, as many as a shard holds."""
    waiting = defaultdict[str, list[Numbered]](list)
    rows = rows_per_shard(kind.shape, kind.dtype)
    for number, record in enumerate(source.records()):
        waiting[record.split].append((number, record))
        if len(waiting[record.split]) == rows:
            yield record.split, waiting[record.split]
            waiting[record.split] = []
    yield from ((split, rest) for split, rest in waiting.items() if rest)


def _parts(
    source: Source, kind: Kind, config: Config, folder: Path, context: RunContext
) -> Iterator[tuple[str, str, Part]]:
    """Name in `folder`, split and content of each part, in the order of the source."""
    numbers = Counter[str]()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for split, items in _shards(source, kind):
            name = f"{split or 'undivided'}-{numbers[split]:05d}.arrow"
            numbers[split] += 1
            yield name, split, _load_or_make(name, items, kind, config, folder, context, pool)


def _in_content_order(
    folder: Path, split_of: Mapping[str, str], source: Source, kind: Kind
) -> Iterator[tuple[str, Pictures]]:
    """The shards of each split, from parts in `folder`. A picture's number is its place in the order."""
    size = rows_per_shard(kind.shape, kind.dtype)
    for split in dict.fromkeys(split_of.values()):
        rows = in_content_order([folder / name for name, of in split_of.items() if of == split])
        taken = {split: rows} if split else divided(rows, getattr(source, "held_out_share", 0))
        for to, of_split in taken.items():
            kept = of_split.take(slice(getattr(source, "limit", None)))
            for start in range(0, len(kept), size):
                shard = kept.take(slice(start, start + size)).read()
                numbers = np.arange(start, start + len(shard))
                yield to, Pictures(shard.images, shard.labels, numbers, shard.attributes, shard.tokens)


def _load_or_make(
    name: str, items: list[Numbered], kind: Kind, config: Config, folder: Path, context: RunContext, pool: Executor
) -> Part:
    """The part with these records, written to `folder`; taken from the state if it was made before."""
    content, about = context.state.load(name), context.state.load(f"{name}.json")
    if content is None or about is None:
        content, about = _encoded(name, items, kind, config, pool)
        context.state.save(name, content)
        context.state.save(f"{name}.json", about)
    (folder / name).write_bytes(content)
    return Part(decode(folder / name), **json.loads(about))


def _encoded(name: str, items: list[Numbered], kind: Kind, config: Config, pool: Executor) -> tuple[bytes, bytes]:
    images = np.empty((len(items), *kind.shape), kind.dtype)
    good: list[Numbered] = []
    bad: list[str] = []
    conversions = Counter[str]()
    is_decoded = not any(callable(record.image) for _, record in items)  # threads would cost more than they save
    for item, checked in zip(items, (map if is_decoded else pool.map)(kind.checked, items)):
        if isinstance(checked, str):
            bad.append(checked)
        else:
            images[len(good)] = checked.image
            conversions.update(checked.conversions)
            good.append(item)
    if bad and config.on_bad_record == "stop":
        raise UserError(
            f"{bad[0]}; {len(bad)} of {len(items)} records of {name} cannot be used: repair them, leave them out, "
            "or set options.on_bad_record: skip"
        )
    labels = np.array([-1 if record.label is None else record.label for _, record in good], np.int64)
    numbers = np.array([number for number, _ in good], np.int64)
    about = json.dumps({"bad": bad, "conversions": conversions}).encode()
    return encode_arrow(Pictures(images[: len(good)], labels, numbers, *kind.lists(good))), about


def _preview(pictures: Pictures, out: Draft, context: RunContext) -> None:
    """A grid of the first images: to the watch, and as preview.png."""
    images = pictures.images[:PREVIEW_IMAGES]
    if images.ndim == 4 and images.shape[1] in (1, 3) and len(images):
        Image.fromarray(grid(images, 8)).save(out.path / "preview.png")
        context.watch.samples("preview", images, 0)
