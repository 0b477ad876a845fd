"""The order and the form of files decide no number: of `measure`, of `prepare`, of a trained feature network."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.artifacts import Artifact
from pipeline.data.shards import Pictures, encode_arrow
from pipeline.metrics.features.extractors import SmallNetwork
from pipeline.metrics.standalone.measure import measure
from pipeline.metrics.standalone.train_extractor import train_extractor
from tests.pipeline.data.test_datasets import prepare
from tests.pipeline.data.test_pixels import channels_first, encoded, picture
from tests.pipeline.metrics.test_sources import CLASSES


def by_class() -> dict[str, dict[str, np.ndarray]]:
    """Features and logits of 1,000 samples of ten classes: class by class, and shuffled."""
    rng, classes = np.random.default_rng(1), 10
    centres = rng.normal(size=(classes, 8)) * 5
    labels = np.repeat(np.arange(classes), 100)
    real, generated = (centres[labels] + np.random.default_rng(seed).normal(size=(1000, 8)) for seed in (2, 3))
    logits = np.where(np.arange(classes) == labels[:, None], 6.0, 0.0) + rng.normal(size=(1000, classes)) * 0.3
    order = np.random.default_rng(4).permutation(1000)
    return {
        "real": {"features": real, "logits": logits},
        "by-class": {"features": generated, "logits": logits, "labels": labels},
        "shuffled": {"features": generated[order], "logits": logits[order], "labels": labels[order]},
        "backwards": {"features": generated[::-1], "logits": logits[::-1], "labels": labels[::-1]},
    }


def test_the_order_of_samples_changes_nothing(tmp_path: Path) -> None:
    for name, arrays in by_class().items():
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    names, real = ("by-class", "shuffled", "backwards"), tmp_path / "real.npz"
    complete = [measure(tmp_path / f"{name}.npz", real, "none", ["is", "fd", "accuracy"], [0]) for name in names]
    assert complete[0].values["is"].value == pytest.approx(8.19, abs=0.05)  # of random orders: 8.17 +- 0.05
    part = [measure(tmp_path / f"{name}.npz", real, "none", ["fd", "recall"], [0], images=500) for name in names]
    assert part[0].values["fd"].value == pytest.approx(0.28, abs=0.06)
    assert part[0].values["recall"].value == pytest.approx(0.86, abs=0.04)
    for found in (complete, part):
        assert found[0].values == found[1].values == found[2].values
        assert found[0].cards == found[1].cards == found[2].cards
    assert dict(complete[0].cards["is"].settings) == {"splits": 10, "order_seed": 1}
    assert dict(part[0].cards["fd"].settings) == {"order_seed": 1}
    assert "permuted by seed 1" in complete[0].json()["card"]["order"]


COUNT = 40
SET = [picture(i) for i in range(COUNT - 2)] + [picture(0), picture(1)]  # two of them twice
LABELS = [i % CLASSES for i in range(COUNT)]


def as_folder(root: Path, order: Sequence[int]) -> Path:
    for place, i in enumerate(order):
        file = root / f"class{LABELS[i]}" / f"{place:03d}.{'png' if i % 2 else 'bmp'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(SET[i], "PNG" if i % 2 else "BMP"))
    return root


def as_zip(root: Path, order: Sequence[int]) -> Path:
    with zipfile.ZipFile(root.with_suffix(".zip"), "w") as archive:
        for place, i in enumerate(order):
            archive.writestr(f"all/class{LABELS[i]}/{place:03d}.png", encoded(SET[i]))
    return root.with_suffix(".zip")


def as_parquet(root: Path, order: Sequence[int]) -> Path:
    root.mkdir(parents=True)
    rows = {"image": [encoded(SET[i]) for i in order], "label": [LABELS[i] for i in order]}
    for part in range(2):
        half = {name: column[part * 20 : part * 20 + 20] for name, column in rows.items()}
        pq.write_table(pa.table(half), root / f"train-{part:05d}-of-00002.parquet")
    return root


def as_npz(root: Path, order: Sequence[int]) -> Path:
    np.savez(root.with_suffix(".npz"), images=np.stack([SET[i] for i in order]), labels=[LABELS[i] for i in order])
    return root.with_suffix(".npz")


def as_shards(root: Path, order: Sequence[int]) -> Path:
    root.mkdir(parents=True)
    images = np.stack([channels_first(SET[i]) for i in order])
    numbers = np.array([LABELS[i] for i in order])
    (root / "data-0.arrow").write_bytes(encode_arrow(Pictures(images, numbers, np.arange(COUNT))))
    return root


FORMS = [as_folder, as_zip, as_parquet, as_npz, as_shards]


@pytest.mark.parametrize("extractor", ["pixels", "network"])
def test_twenty_orders_and_all_forms_measure_to_the_same_bits(extractor: str, tmp_path: Path) -> None:
    network = SmallNetwork((3, 8, 8), CLASSES)
    network.save(tmp_path / "net.safetensors")
    name = "pixels" if extractor == "pixels" else str(tmp_path / "net.safetensors")
    found = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(COUNT).tolist()
        generated, real = (FORMS[(seed + k) % len(FORMS)](tmp_path / f"{seed}-{k}", order) for k in range(2))
        found.append(measure(generated, real, name, ["fd", "kid", "recall"], [0], images=30).values)
    assert all(values == found[0] for values in found)


def test_the_order_of_files_does_not_change_a_trained_network(tmp_path: Path) -> None:
    for seed, form in enumerate((as_parquet, as_npz, as_shards)):
        order = np.random.default_rng(seed).permutation(COUNT).tolist()
        train_extractor(form(tmp_path / f"data{seed}", order), tmp_path / f"{seed}.safetensors", epochs=2, seed=0)
    assert len({(tmp_path / f"{seed}.safetensors").read_bytes() for seed in range(3)}) == 1


def files_of(made: Artifact) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in made.manifest.files.items()}


def test_twenty_orders_of_a_folder_and_of_a_zip_prepare_to_the_same_bits(tmp_path: Path) -> None:
    made = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(COUNT).tolist()
        data = (as_folder, as_zip)[seed % 2](tmp_path / f"data{seed}", order)
        made.append(prepare("image_folder", data, tmp_path / str(seed) / "out", held_out_share=0.25))
    assert all(files_of(each) == files_of(made[0]) for each in made)
    assert all(each.manifest.facts == made[0].manifest.facts for each in made)
    facts = made[0].manifest.facts
    assert (facts["train"], facts["held_out"]) == (30, 10)
    assert "permuted by seed 1" in facts["order"]


def test_given_splits_prepare_to_the_same_bits_as_folder_and_as_parquet(tmp_path: Path) -> None:
    made = []
    for seed in range(6):
        order = np.random.default_rng(seed).permutation(COUNT).tolist()
        root = tmp_path / f"data{seed}"
        for split, rows in (("train", order[:]), ("test", order[::-1])):
            part = [i for i in rows if (i < 30) == (split == "train")]
            if seed % 2:
                as_folder(root / split, part)
            else:
                root.mkdir(exist_ok=True)
                columns = {"image": [encoded(SET[i]) for i in part], "label": [LABELS[i] for i in part]}
                pq.write_table(pa.table(columns), root / f"{split}-{seed}.parquet")
        options: dict[str, Any] = {} if seed % 2 else {"names": [f"class{i}" for i in range(CLASSES)]}
        made.append(prepare("image_folder" if seed % 2 else "parquet", root, tmp_path / str(seed) / "out", **options))
    assert all(files_of(each) == files_of(made[0]) for each in made)
