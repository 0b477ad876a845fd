"""The metric sensitivity check detects every seeded fault, and raises no alarm on clean data."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.shards import Pictures
from pipeline.metrics.features.extractors import SmallNetwork
from pipeline.metrics.image_evaluator import WATCHED, watched
from pipeline.metrics.sensitivity import Extract, Finding, SensitivityReport, Usual, check_sensitivity
from tests.support.digits import digits

FAULTS = {
    "collapse to one image",
    "one class dropped",
    "noise added",
    "precision and recall swapped",
    "wrong reference",
    "half the n",
}
RESIZE = "box instead of antialiased resize"


@pytest.fixture(scope="module")
def pool() -> Pictures:
    real = digits()
    return Pictures(real.train, real.train_labels, np.arange(len(real.train)))


@pytest.fixture(scope="module")
def extract(pool: Pictures) -> Extract:
    network = SmallNetwork.train(pool.images, pool.labels, seed=0, epochs=20)
    return lambda images: network.outputs(images).features


def missed(found: SensitivityReport) -> list[Finding]:
    return [finding for finding in found.findings if not finding.detected]


def test_every_fault_is_detected_on_digits_and_clean_data_raise_at_most_one_alarm_in_twenty(
    pool: Pictures, extract: Extract
) -> None:
    found = check_sensitivity(pool, extract, n=500, measure=watched)
    assert {finding.fault for finding in found.findings} == {*FAULTS, RESIZE}
    assert not missed(found)
    assert found.clean_repetitions == 20
    assert found.clean_alarms <= 1
    assert found.all_faults_detected


def test_a_pipeline_that_swaps_precision_and_recall_is_detected(pool: Pictures, extract: Extract) -> None:
    def swapped(features: np.ndarray, real: np.ndarray) -> dict[str, float]:
        found = watched(features, real)
        return found | {"precision": found["recall"], "recall": found["precision"]}

    found = check_sensitivity(pool.take(slice(400)), extract, n=150, measure=swapped)
    assert "precision and recall swapped" in [finding.fault for finding in missed(found)]


def test_a_metric_that_never_moves_detects_nothing(pool: Pictures, extract: Extract) -> None:
    found = check_sensitivity(
        pool.take(slice(200)), extract, n=60, measure=lambda features, real: dict.fromkeys(WATCHED, 0.5)
    )
    assert not found.all_faults_detected
    assert {finding.fault for finding in missed(found)} == {*FAULTS, RESIZE} - {"half the n"}  # its cards differ


@pytest.mark.slow
def test_more_samples_resolve_more(pool: Pictures, extract: Extract) -> None:
    few, many = (check_sensitivity(pool.take(slice(3 * n)), extract, n, watched).resolving_power for n in (40, 160))
    assert many["fd"] < few["fd"]
    assert many["kid"] < few["kid"]


@pytest.mark.slow
def test_checking_again_gives_the_same_report(pool: Pictures, extract: Extract) -> None:
    some = pool.take(slice(120))
    assert check_sensitivity(some, extract, 40, watched) == check_sensitivity(some, extract, 40, watched)


def test_alarms_are_for_the_worse_only() -> None:
    rng = np.random.default_rng(0)
    usual = Usual.of([{name: float(rng.normal(1, 0.1)) for name in WATCHED} for _ in range(50)])
    assert usual.alarms(dict.fromkeys(WATCHED, 1.0)) == ()
    assert usual.alarms(dict.fromkeys(WATCHED, 9.0)) == ("fd", "kid")
    assert usual.alarms(dict.fromkeys(WATCHED, -9.0)) == ("precision", "recall", "density", "coverage")


def test_one_clean_alarm_in_twenty_all_faults_detected_and_two_are_not() -> None:
    report = SensitivityReport(
        (Finding("f", True, ("fd",)),), {}, {}, clean_alarms=1, clean_repetitions=20, n=9, n_real=9
    )
    assert report.all_faults_detected
    assert not replace(report, clean_alarms=2).all_faults_detected


def test_data_that_cannot_be_checked_are_refused(pool: Pictures, extract: Extract) -> None:
    with pytest.raises(ValueError, match="at least 1400"):
        check_sensitivity(pool, extract, 700, watched)
    with pytest.raises(ValueError, match="two classes"):
        check_sensitivity(Pictures(pool.images, np.full(len(pool), -1), pool.seeds), extract, 100, watched)
