"""Captions as words and as tokens: of the pictures that a run is to make, and of a user."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from methods.core.captions import PAD
from pipeline.data.artifacts import facts_of
from pipeline.data.row_index import open_rows
from pipeline.errors import UserError

SPECIAL = ("<pad>", "<null>")  # the first words of a vocabulary
UNSTATED = -1  # as pipeline.metrics.values.attribute_accuracy reads it: the picture may have any value


class Captions(NamedTuple):
    """The captions of n pictures, which samples take in turn: seed s that of picture s modulo n."""

    labels: np.ndarray  # [n] int64 classes, -1 where the data have none
    tokens: np.ndarray  # [n, L] int64
    attributes: np.ndarray | None  # [n, A]: the values that a caption states, UNSTATED of the others

    @classmethod
    def of(cls, folder: Path, split: str = "held_out") -> "Captions":
        """Of prepared data; UserError if they have no captions."""
        rows, facts = open_rows(folder, split), facts_of(folder)
        if rows.tokens is None:
            raise UserError("model.text: true came, but these data have no captions: set it to false")
        attributes = None if rows.attributes is None else stated(rows.tokens, rows.attributes, facts)
        return cls(rows.labels, rows.tokens.astype(np.int64), attributes)

    def take(self, seeds: Sequence[int]) -> "Captions":
        rows = np.array(seeds) % len(self.labels)
        return Captions(
            self.labels[rows], self.tokens[rows], None if self.attributes is None else self.attributes[rows]
        )

    def row(self, seed: int) -> list[int]:
        """The class, then the tokens."""
        picture = seed % len(self.labels)
        return [int(self.labels[picture]), *self.tokens[picture].tolist()]


def stated(tokens: np.ndarray, attributes: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """attributes [n, A], UNSTATED where the word of a picture's value is not in its caption [n, L]."""
    words, columns = facts["words"], []
    for number, values in enumerate(facts["attribute_values"]):
        wanted = np.array([words.index(value) for value in values])[attributes[:, number]]
        columns.append(np.where((tokens == wanted[:, None]).any(axis=1), attributes[:, number], UNSTATED))
    return np.stack(columns, axis=1)


def tokens_of(caption: str, facts: Mapping[str, Any]) -> list[int]:
    """Padded to the length of the data's captions; UserError for a word that they never use, or too many words."""
    known: list[str] = facts["words"]
    words = caption.lower().split()
    for word in words:
        if word not in known or word in SPECIAL:
            plain = [other for other in known if other not in SPECIAL]
            near = get_close_matches(word, plain, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(plain)}"
            raise UserError(f"caption: no word {word!r} in the vocabulary: {hint}")
    if not 1 <= len(words) <= facts["tokens"]:
        raise UserError(f"caption: {len(words)} words came, 1 to {facts['tokens']} were wanted")
    return [*map(known.index, words), *[PAD] * (facts["tokens"] - len(words))]
