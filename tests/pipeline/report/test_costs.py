"""Seconds per image with intervals, and speed-ups that follow from them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.metrics.intervals import interval
from pipeline.report.costs import COLUMNS, _bounds, speed_page
from pipeline.sampling.fan_out import SampleCounts, SamplingTask, timing
from pipeline.sampling.sampler import SamplerSpec
from pipeline.store.store import State

SECONDS = {"slow": [4.0, 4.2, 3.8, 4.0], "quick": [0.1, 0.11, 0.09, 0.1], "once": [1.0]}


def row(name: str) -> dict[str, Any]:
    values = SECONDS[name]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    timed = {"seconds_per_image": float(np.mean(values)), "seconds_per_image_sd": spread, "timings": len(values)}
    return {"stage": "sample", "name": name, "device": "cpu"} | timed | _bounds(timed)


def test_the_interval_of_the_seconds_is_students() -> None:
    found = row("slow")
    expected = interval(SECONDS["slow"])
    assert (found["seconds_per_image_low"], found["seconds_per_image_high"]) == pytest.approx(expected[1:3])


def test_speed_ups_have_intervals_and_an_entry_timed_once_has_none() -> None:
    page = speed_page(pd.DataFrame([row(name) for name in SECONDS]).reindex(columns=COLUMNS))
    assert "| slow | 4 [3.74, 4.26] | 1 |" in page
    assert "| quick | 0.1 [0.087, 0.113] | 40 [" in page
    assert "once" not in page
    assert speed_page(pd.DataFrame([row("once")]).reindex(columns=COLUMNS)) == ""


def test_the_first_task_of_each_process_and_smaller_ones_are_not_timed(tmp_path: Path) -> None:
    spec = SamplerSpec("{}", tmp_path, (), ())
    sizes, seconds = [64, 64, 64, 64, 10], [9.0, 6.4, 12.8, 6.4, 5.0]
    tasks = [SamplingTask(spec, State("", ""), range(size)) for size in sizes]
    costs = [SampleCounts({}, value) for value in seconds]
    assert timing(tasks, costs, 0) == pytest.approx((8.533333 / 64, np.std([0.1, 0.2, 0.1], ddof=1), 3))
    assert timing(tasks, costs, 3).timings == 1
    assert timing(tasks[:1], costs[:1], 4) == (9.0 / 64, 0.0, 1)
