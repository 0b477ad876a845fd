"""An order of samples that follows from their values and labels, so that no number depends on the order of files."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.row_index import Shard, ShardedRows
from pipeline.data.shards import decode

ORDER_SEED = 1  # of the permutation after the sort, which the values alone could otherwise decide
ORDER = f"sorted by BLAKE2 of their values, equal ones by label, then permuted by seed {ORDER_SEED}"


def digests(values: np.ndarray) -> np.ndarray:
    """values: [n, ...]. [n, 2] uint64."""
    rows = (hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16).digest() for value in values)
    return np.frombuffer(b"".join(rows), np.uint64).reshape(-1, 2)


def content_order(of: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """of: digests, [n, 2]; labels: [n]. Positions [n] of the samples in their new order."""
    keys = (of[:, 1], of[:, 0]) if labels is None else (labels, of[:, 1], of[:, 0])
    return np.lexsort(keys)[np.random.default_rng(ORDER_SEED).permutation(len(of))]


def in_content_order(files: Sequence[Path]) -> ShardedRows:
    """All rows of Arrow files; nothing is copied."""
    parts = [decode(file) for file in files]
    shards = [Shard(file.parent, file.name, len(part), True) for file, part in zip(files, parts) if len(part)]
    of, labels = (np.concatenate(each) for each in zip(*((digests(part.images), part.labels) for part in parts)))
    return ShardedRows(shards).take(content_order(of, labels))


def divided(rows: ShardedRows, share: float) -> dict[str, ShardedRows]:
    """At least one row is held out."""
    held_out = max(1, round(share * len(rows)))
    return {"held_out": rows.take(slice(held_out)), "train": rows.take(slice(held_out, None))}
