"""Metric arithmetic on recorded features and points. Tolerances: README of the golden data."""

import re

import numpy as np

from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.values.frechet import frechet_distance
from pipeline.metrics.values.inception_score import inception_score
from pipeline.metrics.values.kid import kid_of_subsets, polynomial_mmd2
from pipeline.metrics.values.precision_recall import manifold
from tests.methods.reference_cases.fixture import Fixture, case, close


@case("metrics_features")
def metrics_features(fixture: Fixture) -> None:
    generated, real = fixture["features_1"], fixture["features_2"]
    stats, reference = FeatureStats.of(generated), Reference.of(real)
    for side, statistics in (("1", stats), ("2", reference.stats)):
        close(statistics.mean, fixture[f"mu_{side}"], atol=1e-6, rtol=1e-6)
        close(statistics.covariance, fixture[f"sigma_{side}"], atol=1e-9, rtol=1e-6)
    close(frechet_distance(stats, reference.stats, reference.factor).value, fixture["fid"], atol=0, rtol=1e-6)

    shuffle_seeds = {order: _number(order) for order in _endings(fixture, "isc_mean_")}
    for order, seed in shuffle_seeds.items():
        score = inception_score(fixture["logits_1"], shuffle_seed=seed)
        close(score.value, fixture[f"isc_mean_{order}"], atol=1e-6)
        close(score.spread or 0.0, fixture[f"isc_std_{order}"], atol=1e-6)

    seed = next(seed for seed in shuffle_seeds.values() if seed is not None)  # one seed for all of a file's draws
    subsets, subset_size = int(fixture["kid_subsets"]), int(fixture["kid_subset_size"])
    subset_kid = kid_of_subsets(generated, real, subsets, subset_size, seed)
    close(subset_kid.value, fixture["kid_mean"], atol=1e-4)
    close(subset_kid.spread or 0.0, fixture["kid_std"], atol=1e-4)
    n = min(len(generated), len(real))
    full_kid = polynomial_mmd2(generated[:n], real[:n], degree=3, gamma=1 / real.shape[1], coef0=1.0)
    close(full_kid, fixture["kid_full_single_subset"], atol=1e-4)

    for name in _endings(fixture, "prc_k"):
        k = int(name.partition("_")[0])
        scores = manifold(generated, reference, k)
        value = {"precision": scores.precision, "recall": scores.recall, "f": scores.f1}[name.partition("_")[2]].value
        close(value, fixture[f"prc_k{name}"], atol=1.001 / n)  # one sample


@case("mog25_metric")
def mog25_metric(fixture: Fixture) -> None:
    real = fixture["real"].astype(np.float64)
    for name in _endings(fixture, "set/"):
        points = fixture[f"set/{name}"].astype(np.float64)
        close(
            frechet_distance(FeatureStats.of(points), FeatureStats.of(real)).value, fixture[f"fd/{name}"], 0, rtol=1e-3
        )
        x, y = points[fixture["idx_g"]], real[fixture["idx_r"]]
        x, y = ((side - real.mean()) / real.std() for side in (x, y))
        close(polynomial_mmd2(x, y, degree=2, gamma=0.5, coef0=1.0), fixture[f"mmd2/{name}"], atol=2e-3)
        close(_variance_of_mmd2(x, y), fixture[f"mmd2var/{name}"], atol=2e-3)


def _variance_of_mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Hoeffding's variance of the U-statistic with h(i, j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)."""
    n = len(x)
    xx, yy, xy = ((a @ b.T / 2 + 1) ** 2 for a, b in ((x, x), (y, y), (x, y)))
    h = (xx + yy - xy - xy.T) * (1 - np.eye(n))
    square_of_mean = (h.sum() / (n * (n - 1))) ** 2
    first = (np.square(h.sum(axis=1)).sum() - np.square(h).sum()) / (n * (n - 1) * (n - 2)) - square_of_mean
    second = np.square(h).sum() / (n * (n - 1)) - square_of_mean
    return float((4 * (n - 2) * first + 2 * second) / (n * (n - 1)))


def _endings(fixture: Fixture, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in fixture if name.startswith(prefix)]


def _number(name: str) -> int | None:
    digits = re.search(r"\d+$", name)
    return int(digits.group()) if digits else None
