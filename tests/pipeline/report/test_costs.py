"""What a study took, in words."""

import pandas as pd
import pytest

from pipeline.report.costs import busy_minutes, spent

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
