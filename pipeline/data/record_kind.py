"""What all records of a source must be, and the check of one."""

from typing import Any, NamedTuple

import numpy as np

from pipeline.data.decode import Decoded, EncodedPicture
from pipeline.data.records import BadRecord, Record, Source
from pipeline.errors import UserError

Numbered = tuple[int, Record]  # a record and its number in the source


class Kind(NamedTuple):
    """The shape and type of the first record, which all others must have, and what the source announces."""

    source: str
    classes: int
    shape: tuple[int, ...]
    dtype: np.dtype
    is_encoded: bool  # pictures from files
    attributes: dict[str, int]  # the number of values of each
    vocabulary: int
    tokens: int  # of a caption

    @classmethod
    def of(cls, source: Source, name: str) -> "Kind":
        """From the first usable record; UserError if there is none."""
        names = {key: tuple(values) for key, values in getattr(source, "attribute_names", {}).items()}
        if names and source.label_names and tuple(source.label_names) not in names.values():
            raise UserError(f"{name}: attributes {', '.join(names)}, none with the classes as values: add the class")
        first = ""
        for record in source.records():
            try:
                image = record.load()
            except BadRecord as error:  # counted when its shard is made
                first = first or str(error)
                continue
            is_encoded = isinstance(record.image, EncodedPicture)
            sizes = {key: len(values) for key, values in names.items()}
            text = len(getattr(source, "vocabulary", ())), len(record.tokens or ())
            return cls(name, len(source.label_names), image.shape, image.dtype, is_encoded, sizes, *text)
        raise UserError(f"{name}: no record can be used: {first or 'there are none'}; see its options")

    def facts(self, source: Source) -> dict[str, Any]:
        """About attributes and captions; empty without them."""
        values = [list(values) for values in getattr(source, "attribute_names", {}).values()]
        facts = {"attributes": [*self.attributes.values()], "attribute_names": [*self.attributes]}
        facts |= {"attribute_values": values, "vocabulary": self.vocabulary, "tokens": self.tokens}
        facts |= {"words": list(getattr(source, "vocabulary", ()))}
        return {name: value for name, value in facts.items() if value}

    def checked(self, item: Numbered) -> Decoded | str:
        """The image, or why it cannot be used."""
        number, record = item
        came = record.where or f"{self.source}, record {number}"
        try:
            encoded = record.image if isinstance(record.image, EncodedPicture) else None
            image, conversions = Decoded(record.load(), ()) if encoded is None else encoded.decoded()
        except BadRecord as error:
            return str(error)
        if image.shape != self.shape or image.dtype != self.dtype:
            first = f"the first record is {self.dtype} of shape {self.shape}"
            return f"{came}: {image.dtype} of shape {image.shape}, but {first}: set options.preprocess"
        if image.dtype != np.uint8 and not np.isfinite(image).all():
            return f"{came}: holds NaN or infinity"
        if self.classes and not (isinstance(record.label, int) and 0 <= record.label < self.classes):
            return f"{came}: label {record.label!r}, but there are {self.classes} classes, 0 to {self.classes - 1}"
        if (wrong := self._wrong_list(record)) is not None:
            return f"{came}: {wrong}"
        return Decoded(image, conversions)

    def lists(self, records: list[Numbered]) -> list[np.ndarray | None]:
        """Attributes and tokens of all records, in the shortest integers that hold them; None where there are none."""
        columns = (
            ("attributes", len(self.attributes), max(self.attributes.values(), default=0)),
            ("tokens", self.tokens, self.vocabulary),
        )
        return [
            np.array([getattr(record, name) for _, record in records], np.min_scalar_type(-limit)).reshape(-1, width)
            if width
            else None
            for name, width, limit in columns
        ]

    def _wrong_list(self, record: Record) -> str | None:
        """What is wrong with the attributes or the tokens."""
        came, tokens = record.attributes or (), record.tokens or ()
        if len(came) != len(self.attributes):
            names = ", ".join(self.attributes) or "none"
            return f"{len(came)} attributes, but the source names {len(self.attributes)}: {names}"
        for (name, limit), value in zip(self.attributes.items(), came):
            if not 0 <= value < limit:
                return f"attribute {name} is {value}, but it has {limit} values, 0 to {limit - 1}"
        if self.vocabulary and not tokens:
            return f"no tokens, but the source has a vocabulary of {self.vocabulary} words"
        if len(tokens) != self.tokens:
            return f"{len(tokens)} tokens, but the first record has {self.tokens}: pad captions to one length"
        if self.tokens and not 0 <= min(tokens) <= max(tokens) < self.vocabulary:
            return f"tokens {min(tokens)} to {max(tokens)}, but the vocabulary has {self.vocabulary} words"
        return None
