"""Races on simulated values: a wrong winner is rare, and they need fewer trials than fixed seeds."""

import numpy as np
import pytest

from pipeline.metrics.card import Direction
from pipeline.sweeps.selection import PointSeeds, Values, best_of, best_of_shared, race

TABLE_5 = {"0": 77.15, "0.1": 3.32, "0.5": 2.63, "1": 2.24, "5": 2.55, "inf": 41.27}  # SIDDM, with the regulariser
DEVIATION = 0.4
REPETITIONS = 200
FIXED_SEEDS = 5


def raced(truth: dict[str, float], repetition: int, seeds: int, better: Direction = "lower") -> Values:
    rng = np.random.default_rng(repetition)
    sign = 1 if better == "lower" else -1

    def measure(asked: PointSeeds) -> list[float]:
        return [sign * truth[point] + DEVIATION * float(rng.standard_normal()) for point, _ in asked]

    return race(list(truth), measure, seeds * len(truth), 3 * seeds, better)


def winner(values: Values, better: Direction = "lower") -> str | None:
    best, rivals = best_of(values, better)
    return None if rivals else best


def test_a_wrong_winner_is_rare_and_forty_per_cent_of_the_trials_are_saved() -> None:
    found = [raced(TABLE_5, repetition, seeds=3) for repetition in range(REPETITIONS)]
    wrong = [values for values in found if winner(values) not in (None, "1")]
    trials = [sum(map(len, values.values())) for values in found]
    assert len(wrong) <= 0.05 * REPETITIONS
    assert np.mean(trials) <= 0.6 * FIXED_SEEDS * len(TABLE_5)


def test_seeds_go_where_the_best_is_in_doubt() -> None:
    values = raced(TABLE_5, 0, seeds=3)
    assert len(values["0"]) == len(values["inf"]) == 1
    assert max(len(values[point]) for point in ("0.5", "1", "5")) > 3


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_a_clear_winner_is_named_and_ends_the_race(better: Direction) -> None:
    values = raced({"a": 30.0, "b": 10.0, "c": 20.0, "d": 90.0}, 0, seeds=5, better=better)
    assert winner(values, better) == "b"
    assert sum(map(len, values.values())) <= 8


def test_among_equal_points_a_winner_is_hardly_ever_named() -> None:
    equal = dict.fromkeys("abcdef", 1.0)
    named = [winner(raced(equal, repetition, seeds=3)) for repetition in range(REPETITIONS)]
    assert sum(name is not None for name in named) <= 0.05 * REPETITIONS


def test_the_budget_and_the_most_seeds_of_a_point_are_kept() -> None:
    asked: list[tuple[str, int]] = []

    def measure(trials: PointSeeds) -> list[float]:
        asked.extend(trials)
        return [float(seed % 2) for _, seed in trials]

    race(list("abc"), measure, 7, 100, "lower")
    assert len(asked) == len(set(asked)) == 7
    values = race(list("abc"), measure, 100, 4, "lower")
    assert [len(found) for found in values.values()] == [4, 4, 4]


def test_a_point_that_fails_is_out_of_the_race() -> None:
    def measure(asked: PointSeeds) -> list[float | None]:
        return [None if point == "a" else float(ord(point)) for point, _ in asked]

    values = race(list("abc"), measure, 12, 4, "lower")
    assert "a" not in values
    assert winner(values) == "b"


def test_shared_seeds_resolve_a_difference_smaller_than_their_spread() -> None:
    noise = np.random.default_rng(0).standard_normal(5) * 10
    values = {"a": list(noise), "b": list(noise + 0.5 + 0.01 * np.arange(5))}
    assert best_of_shared(values, "lower") == ("a", [])
    assert best_of(values, "lower") == ("a", ["b"])
    assert best_of_shared({"a": [1.0], "b": [2.0]}, "lower") == ("a", ["b"])
