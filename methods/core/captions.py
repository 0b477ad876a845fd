"""Captions: rows of word numbers (tokens), padded to one length."""

from typing import NamedTuple

from torch import Tensor

PAD, NULL = 0, 1  # tokens: after the last word; the only one of an empty caption


class Caption(NamedTuple):
    """Encoded captions, which all steps of a sampler share."""

    words: Tensor  # [B, L, D]
    mask: Tensor  # [B, L] bool: False where there is no word
    pooled: Tensor  # [B, D]: the mean over words


def emptied(tokens: Tensor, empty: Tensor) -> Tensor:
    """tokens [B, L] int64; the rows where `empty` [B] is True become the empty caption."""
    null = tokens.new_full(tokens.shape, PAD)
    null[:, 0] = NULL
    return null.where(empty[:, None], tokens)
