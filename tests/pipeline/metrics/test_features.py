"""Extractors and mergeable statistics, on scikit-learn's real digits."""

from functools import reduce
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from pipeline.errors import ArtifactError
from pipeline.metrics.features.extractors import Pixels, SmallNetwork
from pipeline.metrics.features.nearest_neighbours import (
    nearest_distances,
    neighbour_distances,
    overlap,
    squared_distances,
)
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats
from tests.support.digits import Split, digits


@pytest.fixture(scope="module")
def real() -> Split:
    return digits()


@pytest.fixture(scope="module")
def network(real: Split) -> SmallNetwork:
    return SmallNetwork.train(real.train, real.train_labels, seed=0)


def test_the_network_recognises_held_out_digits(network: SmallNetwork, real: Split) -> None:
    assert network.accuracy(real.held_out, real.held_out_labels) >= 0.97


def test_training_twice_gives_the_same_digest_and_leaves_the_global_generator_alone(real: Split) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second = (SmallNetwork.train(real.train[:200], real.train_labels[:200], 1, epochs=2) for _ in range(2))
    assert first.digest == second.digest
    assert torch.rand(1) == expected
    assert first.digest != SmallNetwork.train(real.train[:200], real.train_labels[:200], 2, epochs=2).digest


@pytest.mark.parametrize("rows", [slice(0, 1), slice(5, 133), slice(63, 66), slice(None, None, -1)], ids=str)
def test_a_picture_has_the_same_features_to_the_bit_in_any_batch(
    network: SmallNetwork, real: Split, rows: slice
) -> None:
    for extract in (network, Pixels()):
        assert np.array_equal(
            extract.outputs(real.held_out[rows]).features, extract.outputs(real.held_out).features[rows]
        )


def test_features_and_logits_come_from_one_pass_and_have_unit_mean_square(network: SmallNetwork, real: Split) -> None:
    found = network.outputs(real.train)
    features, logits = found.features, found.logits
    assert logits is not None
    assert features.shape == (len(real.train), 32)
    assert logits.shape == (len(real.train), 10)
    assert np.square(features).mean() == pytest.approx(1.0, rel=1e-4)


def test_a_saved_network_comes_back_with_the_same_features_and_bytes(
    network: SmallNetwork, real: Split, tmp_path: Path
) -> None:
    network.save(tmp_path / "a")
    loaded = SmallNetwork.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert np.array_equal(loaded.outputs(real.held_out).features, network.outputs(real.held_out).features)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_network_whose_weights_were_changed_is_refused(network: SmallNetwork, tmp_path: Path) -> None:
    path = tmp_path / "net"
    network.save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="digest"):
        SmallNetwork.load(path)


def test_wrong_pictures_are_refused(network: SmallNetwork, real: Split) -> None:
    with pytest.raises(ValueError, match="trained on"):
        network.outputs(np.zeros((2, 3, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        Pixels().outputs(real.train.astype(np.float32))


def test_merged_shards_equal_the_whole_in_any_order() -> None:
    features = np.random.default_rng(0).normal(3.0, 2.0, (500, 12)).astype(np.float32)
    whole = FeatureStats.of(features)
    shards = [FeatureStats.of(part) for part in np.split(features, [1, 20, 190])]
    for order in permutations(shards):
        merged = reduce(FeatureStats.merge, order)
        assert merged.n == whole.n
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(merged.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9)


def test_statistics_refuse_what_they_cannot_use() -> None:
    features = np.ones((5, 3), dtype=np.float32)
    features[3, 1] = np.nan
    with pytest.raises(ValueError, match="first is row 3"):
        FeatureStats.of(features)
    with pytest.raises(ValueError, match="at least one row"):
        FeatureStats.of(np.ones((0, 3)))
    with pytest.raises(ValueError, match="width 3 and 4"):
        FeatureStats.of(np.ones((5, 3))).merge(FeatureStats.of(np.ones((5, 4))))
    with pytest.raises(ValueError, match="at least 2"):
        _ = FeatureStats.of(np.ones((1, 3))).covariance


def test_the_factor_reproduces_a_singular_covariance() -> None:
    features = np.random.default_rng(0).normal(size=(10, 30))
    stats = FeatureStats.of(features)
    factor = stats.factor()
    assert np.array_equal(factor, np.tril(factor))
    np.testing.assert_allclose(factor @ factor.T, stats.covariance, atol=1e-12)


def test_a_saved_reference_comes_back_whole_and_a_changed_one_is_refused(real: Split, tmp_path: Path) -> None:
    reference = Reference.of(Pixels().outputs(real.held_out).features)
    reference.save(tmp_path / "r")
    loaded = Reference.load(tmp_path / "r")
    for name in ("features", "factor", "neighbours"):
        assert np.array_equal(getattr(loaded, name), getattr(reference, name))
    assert np.array_equal(loaded.stats.scatter, reference.stats.scatter)
    assert loaded.digest == reference.digest
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "r").read_bytes()
    content = load_file(tmp_path / "r")
    content["features"][0, 0] += 1
    save_file(content, tmp_path / "changed", {"about": f'{{"digest": "{reference.digest}", "n": {reference.n}}}'})
    with pytest.raises(ArtifactError, match="digest"):
        Reference.load(tmp_path / "changed")


def brute(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.stack([squared_distances(row, right) for row in left])


@pytest.fixture(params=[1, 17, 1000])
def rows_per_block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.metrics.features.nearest_neighbours.BLOCK_ELEMENTS", request.param * 170)


@pytest.fixture(params=["spread", "far from zero", "ties", "one point", "nearly one point", "two tight heaps"])
def clouds(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    left, right = rng.normal(size=(130, 7)), rng.normal(size=(170, 7))
    if request.param == "far from zero":
        left, right = left + 1e4, right + 1e4
    elif request.param == "ties":
        left, right = rng.integers(0, 3, left.shape), rng.integers(0, 3, right.shape)
    elif request.param == "one point":
        left = np.repeat(right[:1], 130, axis=0)
    elif request.param == "nearly one point":
        left = right[:1] + 1e-5 * left
    elif request.param == "two tight heaps":
        left, right = (np.where(np.arange(len(side))[:, None] % 2, 1e3, 0) + 1e-2 * side for side in (left, right))
    return left.astype(np.float32), right.astype(np.float32)


@pytest.mark.usefixtures("rows_per_block")
def test_neighbours_equal_brute_force_in_float64_bit_for_bit(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    left, right = clouds
    assert np.array_equal(nearest_distances(left, right, 4), np.sort(brute(left, right), axis=1)[:, :4])
    assert np.array_equal(neighbour_distances(left, 3), np.sort(brute(left, left), axis=1)[:, 1:4])


@pytest.mark.usefixtures("rows_per_block")
def test_memberships_equal_brute_force_in_float64_also_on_the_border(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    left, right = clouds
    left_radii, right_radii = (neighbour_distances(side, 3)[:, 2] for side in (left, right))
    distances = brute(left, right)
    found = overlap(left, right, left_radii, right_radii)
    assert np.array_equal(found.balls_around_left, (distances <= right_radii).sum(axis=1))
    assert np.array_equal(found.balls_around_right, (distances <= left_radii[:, None]).sum(axis=0))
    assert np.array_equal(found.points_in_right, (distances <= right_radii).sum(axis=0))


def test_more_neighbours_than_points_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 points"):
        neighbour_distances(np.zeros((3, 2), dtype=np.float32), 3)
    with pytest.raises(ValueError, match="at least 4"):
        nearest_distances(np.zeros((3, 2)), np.zeros((3, 2)), 4)
