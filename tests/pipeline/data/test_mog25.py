"""Exactly known mixtures as a dataset."""

from pathlib import Path

import numpy as np
import pytest
import torch

from methods.core.density import mog25
from pipeline.data.datasets.mog25 import Source
from pipeline.data.shards import read_pictures
from pipeline.errors import ConfigError
from tests.support.stages import run_stage_alone


def test_the_defaults_give_the_official_points_in_the_coordinates_that_train_best() -> None:
    facts = Source(per_mode=4, held_out=8).facts
    assert facts["affine"] == {"centre": 10.0, "scale": 0.5}
    assert len(facts["law"]["centres"]) == 25
    stored = [
        np.asarray(record.image) for record in Source(per_mode=4, held_out=8).records() if record.split == "train"
    ]
    raw = torch.from_numpy(np.stack(stored)).double() / 0.5 + 10
    torch.testing.assert_close(raw, mog25.points(4).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [5, 10, 20])
def test_networks_see_the_same_standard_deviation_for_any_number_of_modes(side: int, tmp_path: Path) -> None:
    out = run_stage_alone(
        "prepare", {"source": "mog25", "options": {"side": side, "per_mode": 25, "held_out": 9}}, {}, tmp_path / "a"
    )
    facts = out.manifest.facts
    assert facts["shape"] == [2]
    assert facts["classes"] == 0
    assert facts["train"] == 25 * side**2
    assert facts["std"] == pytest.approx(0.5 * float(mog25.moments()[1][0, 0]) ** 0.5, rel=1e-3)
    train = read_pictures(out.path, "train").images
    assert train.dtype == np.float32
    assert np.abs(train.mean(axis=0)).max() < 0.02
    raw = train.astype(np.float64) / facts["affine"]["scale"] + facts["affine"]["centre"]
    centres = np.array(facts["law"]["centres"])
    assert np.abs(raw.reshape(side**2, 25, 2) - centres[:, None]).max() < facts["law"]["clip"] + 1e-4


def test_held_out_points_are_independent_draws_of_the_law() -> None:
    raw = mog25.draws(20_000, seed=3).double()
    mean, covariance = mog25.moments()
    torch.testing.assert_close(raw.mean(0), mean, atol=0.2, rtol=0)
    torch.testing.assert_close(raw.T.cov(), covariance, atol=1.0, rtol=0)
    nearest = torch.cdist(raw, mog25.centres()).argmin(1).bincount(minlength=25)
    assert nearest.min() > 650
    assert len(set(nearest.tolist())) > 5  # not as many of each


def test_the_official_data_are_there_for_the_asking() -> None:
    source = Source(per_mode=3, held_out=2, centre=0.0, scale=1.0)
    stored = np.stack([np.asarray(record.image) for record in source.records() if record.split == "train"])
    assert np.array_equal(stored, mog25.points(3).numpy())


@pytest.mark.parametrize("option", [{"side": 1}, {"per_mode": 0}, {"scale": 0.0}, {"sides": 3}], ids=str)
def test_impossible_options_are_one_line(option: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        run_stage_alone("prepare", {"source": "mog25", "options": option}, {}, tmp_path / "a")
