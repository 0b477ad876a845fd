"""Glyphs: true captions, exact attributes, unseen shapes; and attributes and tokens on their way to a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from methods.core.types import DataSpec
from pipeline.config.build import build
from pipeline.config.study import load_study
from pipeline.context import Worker
from pipeline.dag.graph import prepare
from pipeline.data.artifacts import Artifact
from pipeline.data.datasets import digits
from pipeline.data.datasets.glyphs import CHARACTERS, FAMILIES, VOCABULARY, Source
from pipeline.data.glyph_outlines import OUTLINES_SHA256, outlines_sha256
from pipeline.data.loader import Prepared, placed
from pipeline.data.records import Record
from pipeline.data.row_index import open_rows
from pipeline.data.shards import Pictures, decode, encode, encode_arrow
from pipeline.errors import ConfigError, TrilemmaError
from pipeline.training.networks import data_facts, data_spec
from tests.support.stages import run_stage_alone
from tests.support.toy_study import ROOT

FEW = {"train": 40, "held_out": 24, "unseen": 16, "classifier": 20}
ALONE = Worker(0, 1, torch.device("cpu"), None)


def words(tokens: np.ndarray) -> list[str]:
    return [VOCABULARY[token] for token in tokens if token]


@pytest.mark.parametrize("source", [Source(), Source(colour=True), Source(layout="centred")])
def test_captions_are_true_and_half_of_them_complete(source: Source) -> None:
    glyphs, names = source.glyphs("train", range(400)), source.attribute_names
    complete = 0
    for attributes, tokens in zip(glyphs.attributes, glyphs.tokens):
        values = {name: names[name][value] for name, value in zip(names, attributes)}
        text = words(tokens)
        stated = [name for name in names if name not in ("ink", "paper") and values[name] in text]
        stated += [name for name, before in (("ink", "in"), ("paper", "on")) if before in text]
        for name, before in (("ink", "in"), ("paper", "on")):
            if name in stated:
                assert text[text.index(before) + 1] == values[name]
        assert len(text) == 1 + len(stated) + ("ink" in stated) + ("paper" in stated)  # no word but true ones
        assert "character" in stated
        assert source.colour or "paper" not in stated
        complete += len(stated) == len(names) - (not source.colour)
    assert 170 < complete < 235  # of 400


def test_a_picture_follows_from_its_index_and_keeps_its_shape_in_colour_and_at_any_side() -> None:
    some, alone = Source().glyphs("held_out", range(3, 9)), Source().glyphs("held_out", [7])
    for all_of, one in zip(some, alone):
        np.testing.assert_array_equal(all_of[4:5], one)
    large = Source(side=32, colour=True).glyphs("held_out", range(3, 9))
    np.testing.assert_array_equal(some.attributes[:, :7], large.attributes[:, :7])
    assert large.images.shape == (6, 3, 32, 32)


def test_unseen_shapes_are_one_of_every_font_and_every_pair_of_traits_is_trained_on() -> None:
    seen, unseen = (
        {tuple(row) for row in Source().glyphs(stream, range(3000)).attributes[:, :4].tolist()}
        for stream in ("train", "unseen")
    )
    assert len(seen) == 144
    assert len(unseen) == 16
    assert not seen & unseen
    assert len({shape[1:] for shape in unseen}) == 16
    styles = list(product((0, 1), (0, 1)))
    assert {shape[:2] for shape in seen} == set(product(range(len(CHARACTERS)), range(len(FAMILIES))))
    assert {(shape[0], shape[2:]) for shape in seen} == set(product(range(len(CHARACTERS)), styles))


def test_centred_glyphs_lie_in_the_middle_and_are_never_small() -> None:
    source = Source(layout="centred")
    assert "vertical" not in source.attribute_names
    assert source.attribute_names["size"] == ("medium", "large")
    images = source.glyphs("train", range(300)).images[:, 0].astype(float)
    ink: np.ndarray = np.abs(images - images[:, :1, :1]) > 16
    for is_inked in (ink.any(axis=1), ink.any(axis=2)):
        first, last = is_inked.argmax(axis=1), 15 - np.flip(is_inked, 1).argmax(axis=1)
        assert np.abs((first + last) / 2 - 7.5).max() <= 1.5  # 0.06 of the side, and half a pixel


def prepared(out: Path, **options: Any) -> Artifact:
    return run_stage_alone("prepare", {"source": "glyphs", "options": FEW | options}, {}, out)


def test_attributes_and_tokens_travel_from_the_source_to_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.shards.MAX_SHARD_ROWS", 16)
    made = prepared(tmp_path / "glyphs")
    facts = made.manifest.facts
    assert {split: facts[split] for split in FEW} == FEW
    data = data_spec(facts)
    assert data == DataSpec((1, 16, 16), 10, facts["std"], (10, 4, 2, 2, 3, 3, 3, 2, 2), len(VOCABULARY), 13)
    assert data_spec(data_facts(data)) == data
    assert facts["attribute_values"][facts["attribute_names"].index("weight")] == ["regular", "bold"]
    rows, glyphs = open_rows(made.path, "train"), Source().glyphs("train", range(40))
    assert rows.read().attributes.dtype == rows.read().tokens.dtype == np.int8  # type: ignore[union-attr]
    for text in (False, True):
        batches = Prepared(rows, True, 16, 3, text=text)
        for batch in (batches(2), placed(batches, ALONE)(2)):
            index = [int(np.flatnonzero((glyphs.images == image).all(axis=(1, 2, 3)))[0]) for image in stored(batch)]
            expected = glyphs.tokens[index] if text else glyphs.attributes[index, 0]
            assert batch.labels is not None
            assert batch.attributes is not None
            assert torch.equal(batch.labels, torch.from_numpy(expected).long())
            assert torch.equal(batch.attributes, torch.from_numpy(glyphs.attributes[index]).long())


def stored(batch: Any) -> np.ndarray:
    return ((batch.images + 1) * 127.5).round().to(torch.uint8).numpy()


def test_a_stream_of_compressed_shards_carries_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    glyphs = Source().glyphs("train", range(32))
    labels, seeds = glyphs.attributes[:, 0].astype(np.int64), np.arange(32)
    pictures = Pictures(glyphs.images, labels, seeds, glyphs.attributes, glyphs.tokens)
    (tmp_path / "train-00000.parquet").write_bytes(encode(pictures))
    monkeypatch.setattr("pipeline.data.loader.MAX_READ_BYTES", 0)
    batch = placed(Prepared(open_rows(tmp_path, "train"), True, 32, 3, text=True), ALONE)(0)
    assert sorted(batch.labels.tolist()) == sorted(glyphs.tokens.tolist())  # type: ignore[union-attr]
    assert batch.attributes.shape == (32, 9)  # type: ignore[union-attr]


def test_files_of_data_without_attributes_have_the_columns_that_they_had() -> None:
    images, numbers = np.zeros((3, 1, 4, 4), np.uint8), np.arange(3)
    for encoded in (encode(Pictures(images, numbers, numbers)), encode_arrow(Pictures(images, numbers, numbers))):
        assert decode(encoded).attributes is None
        assert decode(encoded).tokens is None


def test_other_outlines_stop_before_anything_is_written_unless_any_are_wanted(tmp_path: Path) -> None:
    with pytest.raises(TrilemmaError, match=rf"outlines {OUTLINES_SHA256}, abc was wanted: .* options\.outlines: any$"):
        prepared(tmp_path / "glyphs", outlines="abc")
    assert not (tmp_path / "glyphs").exists()
    entry = "datasets: {glyphs: {source: glyphs, options: {outlines: any}}}"
    (tmp_path / "params.yaml").write_text(f"root: {ROOT}\n{entry}")
    options = prepare(load_study(tmp_path / "params.yaml"), "glyphs").config["options"]
    assert options == {"outlines": outlines_sha256()}  # so what is installed enters the key


def test_options_without_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"options\.side: 20 does not fit"):
        build(Source, {"side": 20}, "options")
    with pytest.raises(ConfigError, match="options: held_out: 1 came, at least 2 was wanted"):
        build(Source, {"held_out": 1}, "options")


@dataclass(frozen=True)
class Faulty:
    """Digits whose fifth record has other attributes or tokens."""

    attributes: Sequence[int] | None = (1, 0)
    tokens: Sequence[int] | None = (1, 0)

    label_names = tuple("0123456789")
    attribute_names = {"size": ("small", "large"), "digit": label_names}  # noqa: RUF012
    vocabulary = ("<pad>", "<null>")

    def records(self) -> Iterator[Record]:
        for number, record in enumerate(digits.Source().records()):
            known = (self.attributes, self.tokens) if number == 4 else ((0, 1), (1, 0))
            yield record._replace(attributes=known[0], tokens=known[1])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Faulty(attributes=None), "0 attributes, but the source names 2: size, digit"),
        (Faulty(attributes=(2, 0)), "attribute size is 2, but it has 2 values, 0 to 1"),
        (Faulty(tokens=(1,)), "1 tokens, but the first record has 2: pad captions to one length"),
        (Faulty(tokens=None), "no tokens, but the source has a vocabulary of 2 words"),
        (Faulty(tokens=(1, 2)), "tokens 1 to 2, but the vocabulary has 2 words"),
    ],
)
def test_a_record_with_wrong_attributes_or_tokens_is_named(
    fault: Faulty, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stages.prepare.build", lambda kind, block, where: fault)
    with pytest.raises(TrilemmaError, match=f"digits, record 4: {message}"):
        run_stage_alone("prepare", {"source": "digits", "options": {}}, {}, tmp_path / "out")
