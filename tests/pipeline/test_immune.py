"""The immune system notices every seeded fault, and keeps quiet about clean data."""

from dataclasses import replace

import numpy as np
import pytest

from methods.core.mog25 import points
from pipeline.feature_metrics import Real
from pipeline.features import DigitsNetwork
from pipeline.immune import WATCHED, Finding, Immunity, Usual, examine, values
from pipeline.shards import Pictures
from tests.pipeline.digits import digits

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
def network(pool: Pictures) -> DigitsNetwork:
    return DigitsNetwork.train(pool.images, pool.labels, seed=0, epochs=20)


def mixture(per_mode: int) -> Pictures:
    images = points(per_mode, seed=1).numpy()
    return Pictures(images, np.repeat(np.arange(25), per_mode), np.arange(len(images)))


def missed(found: Immunity) -> list[Finding]:
    return [finding for finding in found.findings if not finding.detected]


def test_every_fault_is_noticed_on_digits_and_clean_data_raise_at_most_one_alarm_in_twenty(
    pool: Pictures, network: DigitsNetwork
) -> None:
    found = examine(pool, network, n=500)
    assert {finding.fault for finding in found.findings} == {*FAULTS, RESIZE}
    assert not missed(found)
    assert found.clean_repetitions == 20
    assert found.clean_alarms <= 1
    assert found.is_healthy


@pytest.mark.slow
def test_every_fault_is_noticed_on_a_mixture_and_clean_data_raise_at_most_one_alarm_in_twenty() -> None:
    found = examine(mixture(per_mode=120), lambda points: points, n=1000)
    assert {finding.fault for finding in found.findings} == FAULTS
    assert not missed(found)
    assert found.clean_alarms <= 1


def test_a_pipeline_that_swaps_precision_and_recall_is_found_out(pool: Pictures, network: DigitsNetwork) -> None:
    def swapped(features: np.ndarray, real: Real) -> dict[str, float]:
        found = values(features, real)
        return found | {"precision": found["recall"], "recall": found["precision"]}

    found = examine(pool.rows(slice(400)), network, n=150, measure=swapped)
    assert "precision and recall swapped" in [finding.fault for finding in missed(found)]


def test_a_metric_that_never_moves_notices_nothing(pool: Pictures, network: DigitsNetwork) -> None:
    found = examine(pool.rows(slice(200)), network, n=60, measure=lambda features, real: dict.fromkeys(WATCHED, 0.5))
    assert not found.is_healthy
    assert {finding.fault for finding in missed(found)} == {*FAULTS, RESIZE} - {"half the n"}  # its card tells


@pytest.mark.slow
def test_more_samples_resolve_more(pool: Pictures, network: DigitsNetwork) -> None:
    few, many = (examine(pool.rows(slice(3 * n)), network, n=n).resolving_power for n in (40, 160))
    assert many["fd"] < few["fd"]
    assert many["kid"] < few["kid"]


@pytest.mark.slow
def test_examining_again_finds_the_same(pool: Pictures, network: DigitsNetwork) -> None:
    some = pool.rows(slice(120))
    assert examine(some, network, n=40) == examine(some, network, n=40)


def test_alarms_are_for_the_worse_only() -> None:
    rng = np.random.default_rng(0)
    usual = Usual.of([{name: float(rng.normal(1, 0.1)) for name in WATCHED} for _ in range(50)])
    assert usual.alarms(dict.fromkeys(WATCHED, 1.0)) == ()
    assert usual.alarms(dict.fromkeys(WATCHED, 9.0)) == ("fd", "kid")
    assert usual.alarms(dict.fromkeys(WATCHED, -9.0)) == ("precision", "recall", "density", "coverage")


def test_one_clean_alarm_in_twenty_is_healthy_and_two_are_not() -> None:
    healthy = Immunity((Finding("f", True, ("fd",)),), {}, {}, clean_alarms=1, clean_repetitions=20, n=9, n_real=9)
    assert healthy.is_healthy
    assert not replace(healthy, clean_alarms=2).is_healthy


def test_what_cannot_be_examined_is_named(pool: Pictures, network: DigitsNetwork) -> None:
    with pytest.raises(ValueError, match="at least 1400"):
        examine(pool, network, n=700)
    with pytest.raises(ValueError, match="two classes"):
        examine(Pictures(pool.images, np.full(len(pool), -1), pool.seeds), network, n=100)
