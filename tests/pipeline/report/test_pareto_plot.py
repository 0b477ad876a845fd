"""Who is beaten in quality, coverage and cost, and who only within noise."""

from math import nan

import numpy as np
import pandas as pd
import pytest

from pipeline.report.pareto_plot import Trilemma, standings, trilemma

FRONT, NOISE, BEATEN = "on the front", "dominated within noise only", "dominated"


def judged(*points: tuple[tuple[float, float, float], float]) -> list[str]:
    """points: three values and the half width of their intervals; less is better."""
    value = np.array([values for values, _ in points])
    half = np.array([[width] for _, width in points])
    return list(standings(value, value - half, value + half))


def test_whoever_is_worse_everywhere_is_dominated() -> None:
    assert judged(((1, 1, 1), 0.1), ((2, 2, 2), 0.1)) == [FRONT, BEATEN]


def test_whoever_is_best_on_one_axis_is_on_the_front() -> None:
    assert judged(((1, 2, 3), 0.1), ((2, 3, 1), 0.1), ((3, 1, 2), 0.1)) == [FRONT] * 3


def test_one_overlapping_interval_makes_it_noise() -> None:
    assert judged(((1, 1, 1), 0.1), ((2, 2, 1.15), 0.1)) == [FRONT, NOISE]


def test_a_second_rival_that_is_clear_of_it_settles_it() -> None:
    assert judged(((1, 1, 1), 0.1), ((2, 2, 1.15), 0.1), ((1.5, 1.5, 0.5), 0.1))[1] == BEATEN


def test_equals_do_not_dominate_each_other() -> None:
    assert judged(((1, 1, 1), 0.0), ((1, 1, 1), 0.0)) == [FRONT] * 2


def test_the_same_exact_cost_is_no_noise() -> None:
    value = np.array([[10.0, 1.0, 1.0], [10.0, 2.0, 2.0]])
    half = np.array([0.0, 0.1, 0.1])
    assert list(standings(value, value - half, value + half)) == [FRONT, BEATEN]


def test_an_interval_that_nobody_knows_resolves_nothing() -> None:
    assert judged(((1, 1, 1), nan), ((2, 2, 2), nan)) == [FRONT, NOISE]


@pytest.mark.parametrize("seed", range(5))
def test_of_a_hidden_truth_only_the_beaten_are_called_beaten(seed: int) -> None:
    """Means that lie within their intervals: nobody on the true front is dominated beyond noise."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(size=(40, 3))
    value = truth + rng.uniform(-0.1, 0.1, truth.shape)
    found = standings(value, value - 0.1, value + 0.1)
    really = standings(truth, truth, truth)
    assert {really[row] for row, standing in enumerate(found) if standing == BEATEN} == {BEATEN}
    assert BEATEN in found


def table(**entries: tuple[float, float]) -> pd.DataFrame:
    """Quality and coverage of entries, exactly known."""
    rows = [
        {
            "entry": entry,
            "metric": metric,
            "value": value,
            "ci_low": value,
            "ci_high": value,
            "card": "c",
            "real_vs_real": 0.5,
        }
        | {"nfe": 10.0 * number}
        for number, (entry, values) in enumerate(entries.items(), 1)
        for metric, value in zip(("fd", "recall"), values)
    ]
    return pd.DataFrame(rows)


def known(found: Trilemma | None) -> Trilemma:
    assert found is not None
    return found


def test_less_fd_and_more_recall_are_better() -> None:
    found = known(trilemma(table(good=(1.0, 0.9), bad=(2.0, 0.5)), pd.Series({"good": 0.1, "bad": 0.2})))
    assert found.standings == [FRONT, BEATEN]
    assert [axis.less_is_better for axis in found.axes] == [True, True, False]


def test_without_all_seconds_network_evaluations_are_the_cost() -> None:
    values = table(first=(2.0, 0.5), second=(1.0, 0.9))
    assert known(trilemma(values, pd.Series({"first": 5.0, "second": 1.0}))).standings == [BEATEN, FRONT]
    found = known(trilemma(values, pd.Series({"second": 1.0})))
    assert found.axes[0].title == "network evaluations per image"
    assert found.standings == [FRONT, FRONT]


def test_values_of_another_card_are_named_and_not_held_against_the_others() -> None:
    values = table(first=(2.0, 0.5), other=(1.0, 0.9), second=(1.5, 0.8))
    values.loc[values["entry"] == "other", "card"] = "of other features"
    found = known(trilemma(values, pd.Series(dtype=float)))
    assert found.entries == ["first", "second"]
    assert found.left_out == ["other"]
    assert trilemma(table(alone=(1.0, 0.9)), pd.Series(dtype=float)) is None
