"""Metrics of points against an exactly known mixture."""

from math import log

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from methods.core.density import mog25
from pipeline.data.datasets.mog25 import Source
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.mixture_metrics import (
    MixtureDistribution,
    energy_distance,
    mean_distance,
    precision_and_recall,
    reference,
    shares,
)
from pipeline.metrics.values.precision_recall import manifold

LAW = MixtureDistribution.of(Source().facts["law"])


def real(count: int, seed: int = 5) -> np.ndarray:
    return mog25.draws(count, seed).double().numpy()


def test_real_points_have_the_exact_share_of_outliers_all_modes_and_no_divergence() -> None:
    points = real(200_000)
    found = shares(points, LAW)
    assert LAW.outlier_rate == pytest.approx(0.0111, abs=1e-4)
    assert found.hq.value == pytest.approx(1 - LAW.outlier_rate, abs=4 * (LAW.outlier_rate / len(points)) ** 0.5)
    assert found.modes.value == 25
    assert 0 <= found.mode_kl.value < 25 / len(points)  # chi-squared / 2n: its mean is 12.5 / n


def test_a_blob_without_modes_covers_none() -> None:
    """A uniform blob over the grid: the share within 1.0 is 25 pi / 441 of 21 x 21."""
    blob = np.random.default_rng(0).uniform(-0.5, 20.5, (100_000, 2))
    found = shares(blob, LAW)
    assert found.hq.value < 0.18
    assert found.modes.value == 0
    assert found.mode_kl.value > 2.5


def test_a_mode_counts_from_half_its_fair_share() -> None:
    modes = np.repeat(np.arange(25), 40)
    for kept, covered in ((20, 25), (19, 24)):
        rows = np.ones(1000, bool)
        rows[kept:40] = False
        moved = np.where(rows, modes, 1)  # the others go to the next mode: n stays
        assert shares(LAW.centres[moved], LAW).modes.value == covered


def test_the_divergence_of_one_mode_is_its_logarithm() -> None:
    found = shares(np.repeat(LAW.centres[:1], 100, axis=0), LAW)
    assert found.mode_kl.value == pytest.approx(log(25 / (1 - LAW.outlier_rate)))
    assert (found.hq.value, found.modes.value) == (1.0, 1.0)
    assert "fewer than 20 each" in found.modes.warnings[0]


@pytest.mark.parametrize("sizes", [(50, 70), (5000, 300), (130, 4500)], ids=str)
def test_the_energy_distance_equals_its_definition(sizes: tuple[int, int]) -> None:
    x, y = real(sizes[0], 1) + 0.3, real(sizes[1], 2)
    within = [cdist(side, side).sum() / (len(side) * (len(side) - 1)) for side in (x, y)]
    expected = 2 * cdist(x, y).mean() - sum(within)
    assert energy_distance(x, y).value == pytest.approx(expected, abs=2e-6)
    assert energy_distance(x, y, mean_distance(y)).value == pytest.approx(expected, abs=2e-6)


def test_the_energy_distance_of_equals_is_unbiased_and_of_a_blob_is_not() -> None:
    draws = [energy_distance(real(500, 2 * i), real(500, 2 * i + 1)).value for i in range(40)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / 40**0.5
    mean, covariance = mog25.moments()
    blob = np.random.default_rng(1).multivariate_normal(mean.numpy(), covariance.numpy(), 4000)
    assert energy_distance(blob, real(4000)).value > 0.05  # whose Frechet distance is that of real points


@pytest.mark.parametrize("k", [1, 3])
def test_trees_find_the_precision_and_recall_of_the_general_definition_ties_included(k: int) -> None:
    sides = [np.concatenate([side, side[:5], np.zeros((4, 2))]) for side in (real(400, 1) + 0.2, real(300, 2))]
    generated, other = (side.astype(np.float32) for side in sides)
    expected = manifold(generated, Reference.of(other), k)
    found = precision_and_recall(generated, reference(other), k)
    assert found == (expected.precision, expected.recall)
    assert np.array_equal(reference(other).neighbours, Reference.of(other).neighbours)


def test_a_distribution_clipped_inside_a_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="radius"):
        MixtureDistribution(LAW.centres, 0.3, 0.5)
