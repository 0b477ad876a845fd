"""What a study took, in words; seconds per image with intervals, and speed-ups that follow from them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.metrics.intervals import interval
from pipeline.report.costs import COLUMNS, _bounds, busy_minutes, speed_page, spent
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


COST = pd.DataFrame(
    [
        ("prepare", 60.0, 50.0, "2026-01-01T10:01:00+00:00"),
        ("pretrain", 120.0, 100.0, "2026-01-01T10:03:00+00:00"),
        ("pretrain", 60.0, None, "2026-01-01T10:02:00+00:00"),  # beside the other one, on Ray
        ("evaluate", 60.0, 40.0, "2026-01-02T10:00:00+00:00"),  # a day later
        ("sample", None, None, None),
    ],
    columns=["stage", "seconds", "cpu_seconds", "time"],
)


def test_minutes_are_those_in_which_a_stage_ran() -> None:
    assert busy_minutes(COST.dropna(subset=["seconds"])) == pytest.approx(4.0)
    words = spent(COST)
    assert words.startswith("4 minutes and 190 CPU seconds (without 1 on Ray")
    assert words.endswith("for 4 of 5 stages.")
