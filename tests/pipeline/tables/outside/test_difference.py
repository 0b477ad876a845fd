"""Tests of differences: false alarms of equal groups, by simulation, and agreement with scipy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.errors import UserError
from pipeline.metrics.intervals import ALPHA
from pipeline.tables.outside import difference as module
from pipeline.tables.outside.difference import Difference, bootstrap, from_errors, paired_t, welch
from pipeline.tables.outside.groups import Groups, Metric, Test
from pipeline.tables.outside.verdicts import compare_groups

Draw = Callable[[np.random.Generator, int], np.ndarray]
REPETITIONS = 500
LAWS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(4, 1, n),
    "log-normal": lambda rng, n: rng.lognormal(0, 1, n),
    "heavy tails": lambda rng, n: rng.standard_t(3, n),
    "coarse": lambda rng, n: rng.binomial(25, 0.95, n).astype(float),
}


def alarms(law: Draw, n: int, m: int, test: Callable[[np.ndarray, np.ndarray], float]) -> float:
    """Share of equal groups in which p is below 5 %."""
    rng = np.random.default_rng(n * 1000 + m)
    return float(np.mean([test(law(rng, n), law(rng, m)) < ALPHA for _ in range(REPETITIONS)]))


AT_MOST = ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / REPETITIONS)  # by chance, for an error rate of exactly 5 %


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_equal_groups_are_told_apart_by_shared_seeds_in_at_most_one_of_twenty(law: str, n: int) -> None:
    assert alarms(LAWS[law], n, n, lambda a, b: paired_t(a, b, ALPHA).p) <= AT_MOST


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("numbers", [(2, 2), (2, 3), (2, 10), (3, 30), (5, 5), (100, 5)])
def test_equal_groups_are_told_apart_by_other_seeds_in_at_most_one_of_twenty(
    law: str, numbers: tuple[int, int]
) -> None:
    assert alarms(LAWS[law], *numbers, lambda a, b: welch(a, b, ALPHA).p) <= AT_MOST


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("numbers", "is_paired"), [((5, 5), True), ((8, 8), True), ((5, 5), False), ((6, 9), False)])
def test_equal_groups_are_told_apart_by_the_bootstrap_in_at_most_one_of_twenty(
    law: str, numbers: tuple[int, int], is_paired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESAMPLES", 399)
    assert alarms(LAWS[law], *numbers, lambda a, b: bootstrap(a, b, is_paired, ALPHA, 1).p) <= AT_MOST


@pytest.mark.parametrize("law", ["normal", "log-normal"])
@pytest.mark.parametrize("test", ["paired", "welch"])
def test_of_five_equal_groups_in_two_metrics_any_is_better_in_at_most_one_of_twenty(law: str, test: Test) -> None:
    rng, metrics = np.random.default_rng(0), (Metric("fid", "lower"), Metric("recall", "higher"))
    verdicts = []
    for _ in range(300):
        values = {f"g{g}": {str(s): tuple(LAWS[law](rng, 2).tolist()) for s in range(4)} for g in range(5)}
        verdicts.append(compare_groups("simulated", Groups(metrics, values, ()), None, test).verdict)
    assert verdicts.count("better") / len(verdicts) <= ALPHA
    assert (len(verdicts) - verdicts.count("not resolvable")) / len(verdicts) <= ALPHA + 0.025


def test_paired_and_welch_are_those_of_scipy() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 6), rng.normal(1, 2, 6)
    cases: list[tuple[Difference, Any]] = [
        (paired_t(a, b, ALPHA), stats.ttest_rel(a, b)),
        (welch(a, b, ALPHA), stats.ttest_ind(a, b, equal_var=False)),
        (welch(a, b[:4], ALPHA), stats.ttest_ind(a, b[:4], equal_var=False)),
    ]
    for ours, theirs in cases:
        bounds = theirs.confidence_interval(0.95)
        assert (ours.p, ours.low, ours.high) == pytest.approx((theirs.pvalue, bounds.low, bounds.high))


def test_very_unequal_numbers_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, 3), rng.normal(1, 1, 30)
    found = welch(a, b, ALPHA)
    plain: Any = stats.ttest_ind(a, b, equal_var=False)
    assert found.test == "Welch t, widened"
    assert found.p > plain.pvalue
    assert found.high - found.low > plain.confidence_interval().high - plain.confidence_interval().low


def test_values_without_spread_have_the_p_of_a_coincidence() -> None:
    one, two = np.full(3, 1.0), np.full(3, 2.0)
    assert paired_t(one, two, ALPHA).p == 2**-2
    assert welch(one, two, ALPHA).p == pytest.approx(2 / 20)
    assert welch(one, one, ALPHA).p == paired_t(one, one, ALPHA).p == 1
    assert np.isnan(paired_t(one, two, ALPHA).low)
    assert paired_t(np.full(7, 1.0), np.full(7, 2.0), ALPHA).p < ALPHA


def test_rounding_is_no_spread() -> None:
    seeds = np.array([0.1, 0.2, 0.3])
    assert paired_t(seeds + 0.7, seeds, ALPHA).p == 2**-2


def test_the_bootstrap_of_fewer_than_five_seeds_is_refused_and_else_close_to_students_t() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0, 1, (2, 40))
    with pytest.raises(UserError, match="4 shared seeds, at least 5 were wanted"):
        bootstrap(a[:4], b[:4], True, ALPHA, 1)
    with pytest.raises(UserError, match="40 and 10 seeds are too unequal"):
        bootstrap(a, b[:10], False, ALPHA, 1)
    assert bootstrap(a, b, True, ALPHA, 1) == bootstrap(a, b, True, ALPHA, 1)
    for is_paired, plain in ((True, paired_t(a, b, ALPHA)), (False, welch(a, b, ALPHA))):
        found = bootstrap(a, b, is_paired, ALPHA, 1)
        assert found.p == pytest.approx(plain.p, abs=0.02)
        assert found.high - found.low == pytest.approx(plain.high - plain.low, rel=0.1)
        assert found.detectable == pytest.approx(plain.detectable, rel=0.1)


def test_measured_values_with_errors_are_compared_and_more_samples_are_named() -> None:
    found = from_errors((4.0, 4.5), (0.2, 0.3), 9, 1000, ALPHA)
    error = np.hypot(0.2, 0.3)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 9) * error)
    assert found.needed == pytest.approx(1000 * (found.detectable / 0.5) ** 2, abs=1)
    assert from_errors((1.0, 0.9), (0.0, 0.0), 9, 1000, ALPHA).p == 1
