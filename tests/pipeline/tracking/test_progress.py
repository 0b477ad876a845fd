"""How far, how fast and how long still: lines for a log, a bar for a terminal, never on stdout."""

import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Callable

import pytest

from pipeline.tracking.progress import progress
from tests.support.children import ROOT


class Clock:
    """Time that passes by `after`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("tqdm.std.time", lambda: self.now)

    def after(self, seconds: float, reach: Callable[[int], None], done: int) -> None:
        self.now += seconds
        reach(done)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(3000, "pretrain edm-digits", "steps") as reach:
        for second in range(1, 31):
            clock.after(1, reach, 100 * second)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "pretrain edm-digits: 1000 of 3000 steps, 100.00 steps/s, 00:10 elapsed, 00:20 left",
        "pretrain edm-digits: 2000 of 3000 steps, 100.00 steps/s, 00:20 elapsed, 00:10 left",
        "pretrain edm-digits: 3000 of 3000 steps, 100.00 steps/s, 00:30 elapsed, 00:00 left",
    ]


def test_what_a_killed_run_had_done_does_not_count_as_speed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(2000, "pretrain", "steps", done=1000) as reach:
        clock.after(10, reach, 1005)
    assert capsys.readouterr().err.startswith(
        "pretrain: 1005 of 2000 steps,  0.50 steps/s, 00:10 elapsed, 33:10 left\n"
    )


def test_an_error_leaves_a_line_that_says_how_far_it_came(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with progress(10, "sample", "images") as reach:
            clock.after(2, reach, 4)
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        fail()
    assert capsys.readouterr().err == "sample: 4 of 10 images,  2.00 images/s, 00:02 elapsed, 00:03 left\n"


def test_counting_many_small_things_costs_little() -> None:
    began = time.perf_counter()
    with progress(20_000, "evaluate", "things") as reach:
        for done in range(20_000):
            reach(done + 1)
    assert time.perf_counter() - began < 2.0


ON_A_TERMINAL = """
import sys, time
from pipeline.tracking.progress import progress
with progress(4, "pretrain edm", "steps") as reach:
    for step in range(4):
        time.sleep(0.05)
        reach(step + 1)
        print("data", step)
"""


def test_a_terminal_gets_a_bar_and_stdout_only_data() -> None:
    terminal, child_end = pty.openpty()
    termios.tcsetwinsize(child_end, (40, 120))
    environment = {"PATH": "/usr/bin:/bin", "TERM": "xterm"}
    child = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=child_end,
        text=True,
    )
    os.close(child_end)
    assert child.communicate()[0] == "data 0\ndata 1\ndata 2\ndata 3\n"
    shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert "pretrain edm" in shown
    assert "█" in shown
    assert "4 of 4 steps" in shown
    assert "steps/s" in shown
