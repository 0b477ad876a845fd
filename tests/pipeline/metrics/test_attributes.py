"""Attributes of pictures, read by a network of the dataset's own: accuracies, combinations, and what tells copies."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.data.artifacts import Artifact
from pipeline.data.datasets.glyphs import Source
from pipeline.data.shards import Pictures, write_pictures
from pipeline.metrics.card import METRICS_FILE
from pipeline.metrics.evaluate import evaluator_of
from pipeline.metrics.features.attribute_network import AttributeNetwork
from pipeline.metrics.sensitivity import SENSITIVITY_FILE
from pipeline.metrics.values.attribute_accuracy import all_attributes, attribute_accuracy
from pipeline.metrics.values.combinations import combinations
from pipeline.store.publish import new_artifact
from tests.support.stages import run_stage_alone

N = 150  # more than the network has features
OPTIONS = {"layout": "centred", "train": 3 * N, "held_out": 2 * N, "unseen": 20, "classifier": 1000}


def test_accuracy_is_of_what_was_stated() -> None:
    read = np.array([[0, 1], [1, 1], [2, 0], [2, 1]])
    wanted = np.array([[0, -1], [1, 0], [0, 0], [-1, -1]])
    found = attribute_accuracy(read, wanted, ["shape", "size"])
    assert {name: value.value for name, value in found.items()} == {"shape": 2 / 3, "size": 0.5}
    assert all_attributes(read, wanted).value == 0.5
    assert set(attribute_accuracy(read, np.minimum(wanted, [9, -1]), ["shape", "size"])) == {"shape"}
    assert combinations(read).value == 4
    assert combinations(read[[0, 0, 2, 2]]).value == 2
    with pytest.raises(ValueError, match="pass equal shapes, at least one row"):
        all_attributes(read, wanted[:, :1])


class Prepared(SimpleNamespace):
    data: Artifact
    features: Artifact


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("glyphs")
    data = run_stage_alone("prepare", {"source": "glyphs", "options": OPTIONS}, {}, folder / "data")
    features = run_stage_alone("features", {"images": N, "epochs": 4}, {"data": data}, folder / "features")
    return Prepared(folder=folder, data=data, features=features)


def measured(glyphs: Prepared, name: str, pictures: Pictures) -> dict[tuple[str, str], dict]:
    """Rows of metrics.json by metric and extractor, of pictures in place of generated ones."""
    with new_artifact(glyphs.folder / name, "sample", name, {}, {}) as draft:
        write_pictures(draft.path, name, pictures)
        draft.facts.update(nfe=1, guide_calls=0, images=len(pictures))
        draft.seeds.update({name: [0, len(pictures)]})
    inputs = {"prepare": glyphs.data, "features": glyphs.features, "samples": draft.artifact}
    out = run_stage_alone("evaluate", {}, inputs, glyphs.folder / f"evaluated-{name}")
    rows = json.loads((out.path / METRICS_FILE).read_text())["metrics"]
    return {(row["metric"], row["card"]["extractor"]): row for row in rows}


def test_real_glyphs_and_copies_of_few_are_told_apart_from_shards_to_metrics(glyphs: Prepared) -> None:
    train = evaluator_of(glyphs.data.path, glyphs.features.path).train
    real = measured(glyphs, "real", train.take(slice(N)).read())
    copies = measured(glyphs, "copies", train.take(np.arange(N) % 10).read())
    fd, combined = ("fd", "attribute-cnn"), ("combinations", "attribute-cnn")
    assert real[fd]["values"][0] < 2 * real[fd]["real_vs_real"] < copies[fd]["values"][0]
    assert copies[combined]["values"][0] <= 10 < 0.8 * real[combined]["real_vs_real"] < real[combined]["values"][0]
    accuracies = {
        name: real["attribute_accuracy", f"attribute-cnn/{name}"]["values"][0]
        for name in Source(layout="centred").attribute_names
    }
    assert accuracies["ink"] > 0.95
    assert real["all_attributes", "attribute-cnn"]["values"][0] <= min(accuracies.values())
    assert real["accuracy", "attribute-cnn"]["values"][0] == accuracies["character"]


def test_of_samples_with_classes_alone_only_the_class_can_be_right(glyphs: Prepared) -> None:
    real = evaluator_of(glyphs.data.path, glyphs.features.path).held_out.take(slice(N)).read()
    found = measured(glyphs, "classes", Pictures(real.images, real.labels, real.seeds))
    assert {metric for metric, extractor in found if extractor.startswith("attribute-cnn")} == {
        *("fd", "kid", "precision", "recall", "f1", "density", "coverage", "accuracy", "combinations")
    }


def test_few_glyphs_suffice_to_detect_coarse_faults(glyphs: Prepared) -> None:
    inputs = {"data": glyphs.data, "features": glyphs.features}
    out = run_stage_alone("check-metrics", {"images": N}, inputs, glyphs.folder / "checked")
    findings = json.loads((out.path / SENSITIVITY_FILE).read_text())["findings"]
    detected = {finding["fault"]: finding["by"] for finding in findings if finding["detected"]}
    assert detected.keys() >= {"collapse to one image", "wrong reference", "half the n"}
    assert "fd" in detected["collapse to one image"]


def test_a_network_is_the_same_from_the_same_seed_and_from_its_file(tmp_path: Path) -> None:
    some = Source(side=32, colour=True).glyphs("judge", range(64))
    sizes = [len(values) for values in Source(colour=True).attribute_names.values()]
    state = torch.random.get_rng_state()
    one, other = (AttributeNetwork.train(some.images, some.attributes, sizes, 0, 3, epochs=1) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    one.save(tmp_path / "network.safetensors")
    loaded = AttributeNetwork.load(tmp_path / "network.safetensors")
    assert one.digest == other.digest == loaded.digest
    outputs = loaded.outputs(some.images)
    assert outputs.features.shape == (64, 128)
    assert np.square(outputs.features, dtype=np.float64).mean() == pytest.approx(1, abs=1e-5)
    assert outputs.logits is not None
    assert loaded.values(outputs.logits).shape == (64, 9)
    np.testing.assert_array_equal(loaded.classify(some.images), loaded.values(outputs.logits)[:, 0])
