"""Metric arithmetic against torch-fidelity's functions, and known answers on real digits."""

from functools import reduce

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from pipeline.metrics.card import MetricValue
from pipeline.metrics.features.extractors import Pixels, SmallNetwork
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.values.classifier_accuracy import SvmClassifier
from pipeline.metrics.values.frechet import frechet_distance
from pipeline.metrics.values.inception_score import inception_score
from pipeline.metrics.values.kid import kid, kid_of_subsets
from pipeline.metrics.values.nearest_neighbour import nearest_neighbour_distance
from pipeline.metrics.values.precision_recall import manifold
from tests.support.digits import Split, digits


def correlated(n: int, shift: float, seed: int, width: int = 24) -> np.ndarray:
    mixing = np.random.default_rng(1).normal(size=(width, width)) / width**0.5
    return (np.random.default_rng(seed).normal(size=(n, width)) @ mixing + shift).astype(np.float32)


@pytest.fixture(params=[(400, 360), (250, 420), (300, 300)], ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    generated, real = request.param
    return correlated(generated, 0.2, seed=2), correlated(real, 0.0, seed=3)


@pytest.fixture(scope="module")
def real() -> Split:
    return digits()


@pytest.fixture(scope="module")
def network(real: Split) -> SmallNetwork:
    return SmallNetwork.train(real.train, real.train_labels, seed=0, epochs=20)


def distance(generated: np.ndarray, real: np.ndarray) -> MetricValue:
    return frechet_distance(FeatureStats.of(generated), FeatureStats.of(real))


def test_frechet_distance_equals_torch_fidelity(pair: tuple[np.ndarray, np.ndarray]) -> None:
    stats = [fid_features_to_statistics(torch.from_numpy(side.astype(np.float64))) for side in pair]
    expected = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert distance(*pair).value == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_gaussians_with_known_covariances_is_exact() -> None:
    one, two = (
        FeatureStats(n=11, mean=np.full(3, m), scatter=10 * s * s * np.eye(3)) for m, s in ((0.0, 2.0), (1.0, 5.0))
    )
    assert frechet_distance(one, two).value == pytest.approx(3 * 1.0 + 3 * (5.0 - 2.0) ** 2, rel=1e-12)
    assert frechet_distance(one, one).value == pytest.approx(0.0, abs=1e-12)


def test_the_cached_factor_gives_the_same_frechet_distance(pair: tuple[np.ndarray, np.ndarray]) -> None:
    reference = Reference.of(pair[1])
    found = frechet_distance(FeatureStats.of(pair[0]), reference.stats, reference.factor)
    assert found == distance(*pair)


def test_metrics_are_equal_for_one_shard_and_seven_in_any_order(pair: tuple[np.ndarray, np.ndarray]) -> None:
    generated, real = pair
    reference = Reference.of(real)
    shards = np.array_split(generated, 7)
    whole = distance(generated, real).value
    for seed in range(5):
        order = [shards[i] for i in np.random.default_rng(seed).permutation(7)]
        merged = reduce(FeatureStats.merge, map(FeatureStats.of, order))
        assert frechet_distance(merged, reference.stats).value == pytest.approx(whole, rel=1e-9)
        assert manifold(np.concatenate(order), reference) == manifold(generated, reference)
        assert kid(np.concatenate(order), real).value == pytest.approx(kid(generated, real).value, rel=1e-9)


def test_too_few_samples_for_the_features_give_a_warning() -> None:
    few, many = correlated(20, 0.0, 4), correlated(200, 0.0, 5)
    assert distance(many, many).warnings == ()
    assert "20 generated samples for 24 features" in distance(few, many).warnings[0]
    assert "20 real samples for 24 features" in distance(many, few).warnings[0]


@pytest.mark.parametrize("shuffle_seed", [None, 2020])
@pytest.mark.parametrize("n", [400, 403])
def test_inception_score_equals_torch_fidelity(n: int, shuffle_seed: int | None) -> None:
    logits = 2 * correlated(n, 0.0, seed=6, width=10)
    shuffle = shuffle_seed is not None
    expected = isc_features_to_metric(torch.from_numpy(logits), 10, shuffle, shuffle_seed or 0)
    found = inception_score(logits, splits=10, shuffle_seed=shuffle_seed)
    assert found.value == pytest.approx(expected["inception_score_mean"], abs=1e-6)
    assert found.spread == pytest.approx(expected["inception_score_std"], abs=1e-6)


def test_inception_score_counts_classes_seen_with_certainty() -> None:
    logits = 50 * np.eye(5)[np.arange(100) % 5]
    assert inception_score(logits, splits=4).value == pytest.approx(5.0)
    assert inception_score(np.zeros((100, 5)), splits=4).value == pytest.approx(1.0)


def test_kid_equals_torch_fidelity_on_the_same_subsets(pair: tuple[np.ndarray, np.ndarray]) -> None:
    sides = [torch.from_numpy(side.astype(np.float64)) for side in pair]
    expected = kid_features_to_metric(*sides, kid_subsets=7, kid_subset_size=150, rng_seed=2020, verbose=False)
    found = kid_of_subsets(*pair, subsets=7, subset_size=150, seed=2020)
    assert found.value == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)
    assert found.spread == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-9)


def test_kid_over_all_samples_equals_torch_fidelity_with_one_full_subset() -> None:
    generated, real = correlated(300, 0.2, 2), correlated(300, 0.0, 3)
    sides = [torch.from_numpy(side) for side in (generated, real)]
    expected = kid_features_to_metric(*sides, kid_subsets=1, kid_subset_size=300, rng_seed=1, verbose=False)
    assert kid(generated, real).value == pytest.approx(expected["kernel_inception_distance_mean"], abs=1e-4)


def test_kid_is_unbiased_where_the_frechet_distance_is_not() -> None:
    draws = [(correlated(60, 0.0, 10 + i), correlated(80, 0.0, 500 + i)) for i in range(100)]
    values = np.array([kid(*draw).value for draw in draws])
    assert abs(values.mean()) < 3 * values.std() / 10
    assert np.mean([distance(*draw).value for draw in draws]) > 1.0


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_equal_torch_fidelity_exactly(pair: tuple[np.ndarray, np.ndarray], k: int) -> None:
    sides = [torch.from_numpy(side) for side in pair]
    expected = prc_features_to_metric(*sides, prc_neighborhood=k, prc_batch_size=100, save_cpu_ram=False, verbose=False)
    found = manifold(pair[0], Reference.of(pair[1]), k)
    assert np.float32(found.precision.value) == np.float32(expected["precision"])
    assert np.float32(found.recall.value) == np.float32(expected["recall"])
    assert found.f1.value == pytest.approx(expected["f_score"], rel=1e-6)


def test_density_and_coverage_follow_their_definition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    generated, real = (side.astype(np.float64) for side in pair)
    reference = Reference.of(pair[1])
    distances = np.square(generated[:, None] - real[None]).sum(axis=-1)
    inside = distances <= np.sort(np.square(real[:, None] - real[None]).sum(axis=-1), axis=1)[:, 5]
    found = manifold(pair[0], reference, k=5)
    assert found.density.value == pytest.approx(inside.sum() / (5 * len(generated)))
    assert found.coverage.value == pytest.approx(inside.any(axis=0).mean())


def test_swapping_the_sides_swaps_precision_and_recall(pair: tuple[np.ndarray, np.ndarray]) -> None:
    there, back = manifold(pair[0], Reference.of(pair[1])), manifold(pair[1], Reference.of(pair[0]))
    assert there.precision != there.recall
    assert (there.precision, there.recall, there.f1) == (back.recall, back.precision, back.f1)


@pytest.mark.parametrize("space", ["network", "pixels"])
def test_collapse_shows_in_recall_and_noise_in_precision(network: SmallNetwork, real: Split, space: str) -> None:
    extract = network if space == "network" else Pixels()
    reference = Reference.of(extract.outputs(real.held_out).features)
    noise = np.random.default_rng(0).normal(0, 60, (500, 1, 8, 8))
    clean = real.train[:500]
    sets = {
        "clean": clean,
        "collapsed": np.repeat(clean[:1], 500, axis=0),
        "one class": real.train[real.train_labels == 3],
        "noisy": np.clip(clean + noise, 0, 255).astype(np.uint8),
    }
    found = {name: manifold(extract.outputs(images).features, reference) for name, images in sets.items()}
    assert found["clean"].precision.value > 0.8
    assert found["clean"].recall.value > 0.8
    assert found["collapsed"].recall.value < 0.05
    assert found["one class"].precision.value > 0.75
    assert found["one class"].recall.value < 0.2
    assert found["noisy"].precision.value < found["clean"].precision.value - 0.1
    assert found["noisy"].coverage.value < found["clean"].coverage.value - 0.1
    frechet = {
        name: distance(extract.outputs(images).features, reference.features).value for name, images in sets.items()
    }
    assert min(frechet[name] for name in sets if name != "clean") > 2 * frechet["clean"]


def test_copies_of_the_training_data_are_nearer_than_held_out_pictures(real: Split) -> None:
    train, held_out = Pixels().outputs(real.train).features, Pixels().outputs(real.held_out).features
    assert nearest_neighbour_distance(train[:100], train).value == 0.0
    assert nearest_neighbour_distance(held_out, train).value > 1.0


def test_the_classifier_recognises_held_out_digits_and_not_wrong_labels(real: Split) -> None:
    classifier = SvmClassifier.fit(real.train, real.train_labels)
    right = classifier.accuracy(real.held_out, real.held_out_labels)
    assert right.value >= 0.98
    assert right.warnings == ()
    assert classifier.accuracy(real.held_out, (real.held_out_labels + 1) % 10).value < 0.02
    threes = real.held_out_labels == 3
    assert "classes [0, 1, 2, 4" in classifier.accuracy(real.held_out[threes], real.held_out_labels[threes]).warnings[0]
    assert classifier.digest == SvmClassifier.fit(real.train, real.train_labels).digest
    assert classifier.digest != SvmClassifier.fit(real.train, real.train_labels[::-1]).digest


GOOD = correlated(50, 0.0, 1)
BROKEN = np.where(np.arange(50)[:, None] == 17, np.float32(np.nan), GOOD)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: distance(GOOD[:1], GOOD), "at least 2"),
        (lambda: distance(GOOD[:, :3], GOOD), "width 3, real 24"),
        (lambda: distance(BROKEN, GOOD), "first is row 17"),
        (lambda: kid(GOOD[:1], GOOD), "1 generated sample"),
        (lambda: kid(GOOD, BROKEN), "first is row 17"),
        (lambda: kid_of_subsets(GOOD, GOOD[:40], subset_size=45), "lower subset_size to 40"),
        (lambda: inception_score(GOOD[:19]), "at least 20"),
        (lambda: inception_score(BROKEN), "first is row 17"),
        (lambda: manifold(GOOD[:, :3], Reference.of(GOOD)), "width 3, real 24"),
        (lambda: manifold(GOOD[:3], Reference.of(GOOD)), "at least 4"),
        (lambda: manifold(GOOD, Reference.of(GOOD), k=11), "1 to 10"),
        (lambda: manifold(BROKEN, Reference.of(GOOD)), "first is row 17"),
        (lambda: Reference.of(GOOD[:1]), "at least 2"),
        (lambda: nearest_neighbour_distance(GOOD, BROKEN), "first is row 17"),
        (lambda: SvmClassifier.fit(GOOD, np.zeros(50)), "pass uint8"),
    ],
)
def test_input_that_cannot_be_measured_is_refused_with_its_reason(measure, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure()
