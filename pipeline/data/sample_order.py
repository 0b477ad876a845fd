"""An order of samples that follows from their values and labels, so that no number depends on the order of files."""

import hashlib

import numpy as np

ORDER_SEED = 20260  # of the permutation after the sort, which the values alone could otherwise decide
ORDER = f"sorted by BLAKE2 of values and label, then permuted by seed {ORDER_SEED}"


def digests(values: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """values: [n, ...]; labels: [n], or None. [n, 2] uint64."""
    tags = np.full(len(values), -1, np.int64) if labels is None else np.asarray(labels, np.int64)
    rows = (
        hashlib.blake2b(np.ascontiguousarray(value).tobytes() + tag.tobytes(), digest_size=16).digest()
        for value, tag in zip(values, tags)
    )
    return np.frombuffer(b"".join(rows), np.uint64).reshape(-1, 2)


def content_order(of: np.ndarray) -> np.ndarray:
    """of: digests, [n, 2]. Positions [n] of the samples in their new order; equal samples may change places."""
    by_digest = np.lexsort((of[:, 1], of[:, 0]))
    return by_digest[np.random.default_rng(ORDER_SEED).permutation(len(of))]
