"""Golden pictures of the `glyphs` dataset, bit for bit."""

import hashlib

import numpy as np

from pipeline.data.datasets.glyphs import VOCABULARY, Draws, Source
from pipeline.data.glyph_outlines import DIGITS, coverage, outlines, outlines_sha256
from tests.methods.reference_cases.fixture import Fixture, case

GREY, COLOUR = Source(), Source(side=32, colour=True)
SERIF_BOLD_SLANTED_SEVEN = (2 * 4 + 3) * DIGITS + 7


@case("latent_glyphs")
def latent_glyphs(fixture: Fixture) -> None:
    start = int(fixture["start"])
    for name in fixture.cases("_images"):
        stream, _, kind = name.rpartition("_")
        images, attributes, tokens = (GREY if kind == "16g" else COLOUR).glyphs(stream, range(start, start + 512))
        n = len(fixture[f"{name}_images"])
        np.testing.assert_array_equal(images[:n], fixture[f"{name}_images"])
        np.testing.assert_array_equal(attributes[:n], fixture[f"{name}_attributes"])
        np.testing.assert_array_equal(tokens[:n], fixture[f"{name}_tokens"])
        assert hashlib.sha256(images.tobytes()).hexdigest() == str(fixture[f"{name}_sha256_of_512"])
    assert tuple(GREY.attribute_names) == tuple(fixture["names"])
    assert tuple(fixture["vocabulary"]) == VOCABULARY
    for source, name in ((GREY, "captions"), (COLOUR, "captions_colour")):
        expected = fixture[name].tolist()
        tokens = source.glyphs("train", range(start, start + len(expected))).tokens
        assert [" ".join(VOCABULARY[token] for token in row if token) for row in tokens] == expected
    assert outlines_sha256() == str(fixture["outlines_sha256"])
    np.testing.assert_array_equal(
        outlines()[SERIF_BOLD_SLANTED_SEVEN], fixture["outline_segments_7_serif_bold_slanted"]
    )
    draws = Draws.accepted("train", [start], GREY._is_wrong)
    fill = coverage(GREY._placed(GREY._values(draws), draws), GREY.side)[0]
    np.testing.assert_array_equal(fill, fixture["coverage_of_first"])
