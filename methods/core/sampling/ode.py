"""Adaptive Runge-Kutta integration (Dormand and Prince 1980; step control of Hairer, Norsett and Wanner, II.4)."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Slope: TypeAlias = Callable[[float, Tensor], Tensor]  # dy/dt at time t and state y, shaped as y

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)  # the last one is the fifth-order solution itself
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # fifth less fourth order
SAFETY, MIN_GROWTH, MAX_GROWTH = 0.9, 0.2, 10.0  # factors on the step's length
MIN_STEP_SHARE = 1e-12  # shortest step, as a share of the interval


class Solution(NamedTuple):
    y: Tensor
    calls: int  # of the slope


def rk45(slope: Slope, y: Tensor, start: float, stop: float, rtol: float = 1e-5, atol: float = 1e-5) -> Solution:
    """y at `stop`, in float64 between calls. One step size for the whole state: its error is a mean over all of it.

    Raises ValueError where the slope is not finite or the steps shrink to nothing.
    """
    direction = 1.0 if stop > start else -1.0
    y = y.double()
    first = slope(start, y).double()
    step, calls, t, may_grow = _first_step(slope, y, first, start, stop, rtol, atol), 2, start, True
    while direction * (stop - t) > 0:
        is_last = step >= direction * (stop - t)
        step = direction * (stop - t) if is_last else step
        if not step >= MIN_STEP_SHARE * abs(stop - start):  # NaN included
            raise ValueError(f"integration is stuck at t = {t:.6g}: the slope is too steep there, or not finite")
        slopes = [first]
        reached = y
        for node, stage in zip(NODES[1:], STAGES):
            reached = y + direction * step * sum(weight * k for weight, k in zip(stage, slopes))
            slopes.append(slope(t + direction * step * node, reached).double())
        calls += len(STAGES)
        error = step * sum(weight * k for weight, k in zip(ERROR, slopes))
        size = _rms(error / (atol + rtol * torch.maximum(y.abs(), reached.abs())))
        factor = MAX_GROWTH if size == 0 else SAFETY * size**-0.2 if size == size else MIN_GROWTH
        if size <= 1:
            t, y, first = stop if is_last else t + direction * step, reached, slopes[-1]
            step *= min(MAX_GROWTH if may_grow else 1.0, max(MIN_GROWTH, factor))
        else:
            step *= max(MIN_GROWTH, min(1.0, factor))
        may_grow = size <= 1
    return Solution(y, calls)


def _first_step(slope: Slope, y: Tensor, first: Tensor, start: float, stop: float, rtol: float, atol: float) -> float:
    """A step whose error should be tolerable, from the slope and how fast it changes."""
    scale = atol + rtol * y.abs()
    height, steepness = _rms(y / scale), _rms(first / scale)
    guess = 1e-6 if min(height, steepness) < 1e-5 else 0.01 * height / steepness
    guess = min(guess, abs(stop - start))
    direction = 1.0 if stop > start else -1.0
    second = slope(start + direction * guess, y + direction * guess * first).double()
    bend = _rms((second - first) / scale) / guess
    flat = max(steepness, bend) <= 1e-15
    better = max(1e-6, guess * 1e-3) if flat else (0.01 / max(steepness, bend)) ** 0.2
    return min(100 * guess, better, abs(stop - start))


def _rms(value: Tensor) -> float:
    return float(value.square().mean().sqrt())
