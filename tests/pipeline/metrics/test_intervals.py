"""Intervals and verdicts have the promised error rates."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.metrics.intervals import (
    ALPHA,
    POWER,
    Measured,
    by_seed_text,
    by_seed_values,
    compared,
    holm,
    interval,
    minimum_detectable,
    paired,
    scope,
    seeds_for,
    seeds_needed,
    t_quantile,
    welch,
)


def test_the_interval_is_students_t() -> None:
    values = [2.0, 3.5, 1.0, 4.0]
    found = interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert found == pytest.approx((np.mean(values), low, high, 4))


def test_one_value_has_a_mean_and_no_bounds() -> None:
    found = interval([3.0])
    assert (found.mean, found.n) == (3.0, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert paired([1.0], [2.0], "lower").verdict == "not resolvable"


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0], [2.0]]])
def test_values_that_are_no_list_of_numbers_are_refused(values) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        interval(values)


def test_verdicts_are_on_the_first_and_follow_the_direction() -> None:
    low, high = [1.0, 1.1, 0.9, 1.05], [2.0, 2.2, 1.9, 2.0]
    assert paired(low, high, "lower").verdict == "better"
    assert paired(high, low, "lower").verdict == "worse"
    assert paired(low, high, "higher").verdict == "worse"
    assert paired(high, low, "higher").verdict == "better"
    assert paired(low, low, "lower").verdict == "not resolvable"
    assert paired(high, low, "lower").difference == pytest.approx(np.mean(high) - np.mean(low))


def test_a_metric_without_a_good_direction_gets_no_winner() -> None:
    assert paired([2.0, 2.1, 2.2], [1.0, 1.1, 1.3], None).verdict == "different"
    assert paired([2.0, 1.1, 1.2], [1.0, 2.1, 1.3], None).verdict == "not resolvable"


def test_counts_without_noise_are_resolved() -> None:
    assert paired([35.0] * 3, [71.0] * 3, "lower").verdict == "better"


def test_pairing_resolves_what_the_spread_over_seeds_would_hide() -> None:
    rng = np.random.default_rng(0)
    seeds, gain = rng.normal(0, 1, 6), 0.1
    guided = seeds - gain + rng.normal(0, 0.02, 6)
    assert paired(guided.tolist(), seeds.tolist(), "lower").verdict == "better"
    assert interval(guided).low < interval(seeds).mean < interval(guided).high


def test_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values against 3"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0], "lower")


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_about_one_in_twenty_comparisons_of_equals_raises_an_alarm(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    draws = 5 + rng.normal(size=(2000, 2, seeds))
    alarms = [paired(a.tolist(), b.tolist(), "lower").verdict != "not resolvable" for a, b in draws]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.015)


def test_the_interval_covers_the_truth_95_times_in_100() -> None:
    draws = np.random.default_rng(1).normal(7.0, 2.0, size=(2000, 5))
    intervals = [interval(draw) for draw in draws]
    assert np.mean([i.low <= 7.0 <= i.high for i in intervals]) == pytest.approx(0.95, abs=0.015)


def test_the_scope_of_a_verdict_grows_with_training_seeds() -> None:
    assert scope(1) == "for this checkpoint"
    assert scope(2) == "for these 2 checkpoints"
    assert scope(3) == "for the method, 3 training seeds"
    with pytest.raises(ValueError, match="at least one"):
        scope(0)


def measured(values: list[float], seeds: range | None = None) -> Measured:
    return Measured(*interval(values), dict(zip(seeds, values)) if seeds else {})


def test_welch_needs_only_the_intervals() -> None:
    a, b = [1.0, 1.4, 0.8, 1.1], [2.0, 3.5, 1.5]
    found = welch(measured(a), measured(b), "lower")
    oracle: Any = stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(oracle.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval()))
    assert welch(measured([1.0]), measured(b), "lower").verdict == "not resolvable"
    assert welch(measured([1.0, 1.0]), measured([2.0, 2.0]), "lower")[3:] == ("better", 2, 0.0)


def test_the_p_value_of_a_pair_is_students() -> None:
    a, b = [1.0, 1.4, 0.8, 1.1], [2.0, 3.5, 1.5, 2.2]
    assert paired(a, b, "lower").p == pytest.approx(stats.ttest_rel(a, b)[1])
    assert paired([1.0, 1.0], [1.0, 1.0], "lower").p == 1
    assert math.isnan(paired([1.0], [2.0], "lower").p)


def test_values_of_the_same_training_seeds_are_compared_pair_by_pair() -> None:
    a, b = [1.0, 2.0, 3.0], [1.1, 2.09, 3.11]
    assert compared(measured(a, range(3)), measured(b, range(3)), "lower").verdict == "better"
    assert compared(measured(a, range(3)), measured(b, range(1, 4)), "lower").verdict == "not resolvable"
    assert by_seed_values(by_seed_text({0: 0.25, 7: 1e-7})) == {0: 0.25, 7: 1e-7}


def test_holm_multiplies_the_smallest_p_value_by_all_the_next_by_one_less() -> None:
    assert holm([0.01, 0.04, math.nan, 0.03]) == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_of_ten_comparisons_of_equals_one_in_twenty_families_raises_an_alarm() -> None:
    rng = np.random.default_rng(2)
    families = rng.normal(size=(1000, 10, 2, 4))
    alarms = [min(holm([paired(a.tolist(), b.tolist(), None).p for a, b in family])) < 0.05 for family in families]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("freedom", [1, 2, 4, 30])
def test_the_minimum_detectable_difference_is_found_four_times_in_five(freedom: int) -> None:
    truth = stats.nct(freedom, minimum_detectable(1.0, freedom))
    assert truth.sf(t_quantile(freedom)) == pytest.approx(POWER, abs=0.002)


def test_far_quantiles_have_the_power_too() -> None:
    alpha = 0.006  # on the other side of the bound at which the formula changes
    ratio = minimum_detectable(1.0, 1, alpha) / minimum_detectable(1.0, 1, alpha * 1.1)
    assert ratio == pytest.approx(t_quantile(1, 1 - alpha / 2) / t_quantile(1, 1 - alpha * 1.1 / 2), rel=1e-3)


@pytest.mark.parametrize("effect", [0.3, 1.0, 3.0])
def test_the_seeds_needed_are_the_fewest_with_the_power(effect: float) -> None:
    n = seeds_for(effect, 1.0)
    assert n is not None
    for seeds, is_enough in ((n - 1, False), (n, True)):
        power = stats.nct(seeds - 1, effect * math.sqrt(seeds)).sf(t_quantile(seeds - 1))
        assert (power >= POWER - 1e-6) == is_enough
    assert seeds_needed([effect - math.sqrt(0.5), effect + math.sqrt(0.5)]) == n
    assert (seeds_for(effect, 1.0, alpha=ALPHA / 10) or 0) > n
    assert (seeds_for(effect, 1.0, groups=2) or 0) <= n


def test_no_number_of_seeds_resolves_no_difference_and_two_resolve_one_without_noise() -> None:
    assert seeds_needed([1.0, -1.0]) is None
    assert seeds_needed([0.0, 0.0]) is None
    assert seeds_needed([2.0, 2.0]) == 2
    assert seeds_for(1e-6, 1.0) is None
