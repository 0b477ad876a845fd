"""How far, how fast and how long still: lines for a log, a bar for a terminal, never on stdout."""

import os
import pty
import subprocess
import sys
import time

import pytest

from pipeline.tracking.progress import Progress, counted, progress
from tests.support.children import ROOT


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def after(self, seconds: float, work: Progress, done: int) -> None:
        self.now += seconds
        work.reach(done)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(3000, "pretrain edm-digits", "steps") as work:
        for second in range(1, 31):
            clock.after(1, work, 100 * second)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "pretrain edm-digits: 1000 of 3000 steps, 100 steps/s, 0:00:20 left",
        "pretrain edm-digits: 2000 of 3000 steps, 100 steps/s, 0:00:10 left",
        "pretrain edm-digits: 3000 of 3000 steps, 100 steps/s, took 0:00:30",
    ]


def test_the_rate_is_that_of_late(clock: Clock) -> None:
    with progress(10_000, "sample", "images") as work:
        clock.after(100, work, 100)
        for minute in range(1, 3):
            clock.after(60, work, 100 + 600 * minute)
        assert work.text() == "1300 of 10000 images, 10 images/s, 0:14:30 left"


def test_what_a_killed_run_had_done_does_not_count_as_speed(clock: Clock) -> None:
    with progress(2000, "pretrain", "steps", done=1000) as work:
        clock.after(10, work, 1005)
        assert work.text() == "1005 of 2000 steps, 0.5 steps/s, 0:33:10 left"


def test_an_error_leaves_a_line_that_says_how_far_it_came(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with progress(10, "sample", "images") as work:
            clock.after(2, work, 4)
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fail()
    assert capsys.readouterr().err == "sample: 4 of 10 images, 2 images/s, 0:00:03 left\n"


def test_items_are_counted_as_they_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(counted("abc", "evaluate", "sets")) == ["a", "b", "c"]
    assert capsys.readouterr().err.startswith("evaluate: 3 of 3 sets, ")


def test_counting_many_small_things_costs_little() -> None:
    began = time.perf_counter()
    for _ in counted(range(20_000), "evaluate", "things"):
        pass
    assert time.perf_counter() - began < 2.0


ON_A_TERMINAL = """
import sys, time
from pipeline.tracking.progress import progress
with progress(4, "pretrain edm", "steps") as work:
    for step in range(4):
        time.sleep(0.05)
        work.advance()
        print("data", step)
"""


def test_a_terminal_gets_a_bar_and_stdout_only_data() -> None:
    ours, theirs = pty.openpty()
    environment = {"PATH": "/usr/bin:/bin", "TERM": "xterm", "COLUMNS": "120"}
    child = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    assert child.communicate()[0] == "data 0\ndata 1\ndata 2\ndata 3\n"
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "pretrain edm" in shown
    assert "━" in shown
    assert "4 of 4 steps" in shown
    assert "steps/s" in shown
