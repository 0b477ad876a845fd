"""Cards decide which values may be compared."""

import json
from dataclasses import asdict, replace

import pytest

from pipeline.metrics.card import METRICS, Card, same_measure

CARD = Card(
    metric="precision",
    extractor="small-cnn",
    extractor_digest="1a2b3c4d5e6f",
    layer="penultimate-32",
    preprocessing="uint8 / 127.5 - 1",
    n_generated=500,
    n_real=500,
    reference="held-out",
    reference_digest="ffee",
    sample_seeds=(0, 1),
    settings=(("k", 3),),
)
CHANGES = {
    "metric": "recall",
    "extractor": "pixels",
    "extractor_digest": "0",
    "layer": "logits",
    "preprocessing": "none",
    "n_generated": 250,
    "n_real": 1297,
    "reference": "train",
    "reference_digest": "0",
    "settings": (("k", 5),),
}


def test_the_text_fits_a_table_cell() -> None:
    assert str(CARD) == "small-cnn@1a2b3c4d held-out n=500/500 k=3"


def test_the_id_is_the_same_on_every_machine_and_for_any_sampling_seeds() -> None:
    assert CARD.id == "cc9b4c31"
    assert replace(CARD, sample_seeds=(7,)).id == CARD.id
    assert len({replace(CARD, **{name: value}).id for name, value in CHANGES.items()} | {CARD.id}) == len(CHANGES) + 1


def test_a_card_survives_json() -> None:
    fields = json.loads(json.dumps(asdict(CARD)))
    assert Card.from_json(fields) == CARD


@pytest.mark.parametrize("name", CHANGES)
def test_values_of_different_cards_are_refused_unless_the_difference_is_named(name: str) -> None:
    other = replace(CARD, **{name: CHANGES[name]})
    with pytest.raises(ValueError, match=f"{CARD.id}.*{other.id}.*differ in {name}"):
        same_measure([CARD, replace(CARD, sample_seeds=(9,)), other])
    same_measure([CARD, other], apart_from=[name])


def test_equal_cards_and_no_cards_are_accepted() -> None:
    same_measure([])
    same_measure([CARD, replace(CARD, sample_seeds=())])


def test_an_unknown_field_or_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="no field seed"):
        same_measure([CARD], apart_from=["seed"])
    with pytest.raises(ValueError, match="no metric 'FID'"):
        replace(CARD, metric="FID")


def test_every_metric_of_the_design_has_a_direction_or_explicitly_none() -> None:
    names = "fid fd sfid kid is precision recall f1 density coverage accuracy nn_distance hq modes mode_kl energy"
    names += " attribute_accuracy all_attributes combinations"
    assert set(METRICS) == {*names.split(), "frechet_2d", "nll", "nfe"}
    assert {name for name, kind in METRICS.items() if kind.better is None} == {"nn_distance"}
    assert METRICS["recall"].better == "higher"
    assert METRICS["kid"].better == "lower"
