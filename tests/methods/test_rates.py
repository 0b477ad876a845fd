"""Falling learning rates and warm-up of averages."""

import pytest

from methods.core.training.rates import averaging, falling
from methods.core.types import Progress


def at(step: int) -> Progress:
    return Progress(step, batch=1, steps=100)


def test_rates_are_constant_then_fall_linearly_to_two_percent() -> None:
    rate = falling(2.0, 0.3)
    assert rate(at(0)) == rate(at(30)) == 2.0
    assert rate(at(65)) == pytest.approx(2.0 * 0.51)
    assert rate(at(100)) == pytest.approx(0.04)
    assert falling(2.0, None)(at(99)) == 2.0


def test_averages_decay_faster_at_first_if_they_warm_up() -> None:
    warm = averaging(0.9, warmup=True)
    assert warm(at(0)) == pytest.approx(0.1)
    assert warm(at(10)) == pytest.approx(0.55)
    assert warm(at(99)) == averaging(0.9, warmup=False)(at(0)) == 0.9
