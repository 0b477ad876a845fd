"""How far a piece of work is, how fast it goes and when it will be done: on stderr, for stdout is for data.

A bar where somebody watches a terminal, else a plain line now and then.
"""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

Item = TypeVar("Item")
LINE_SECONDS = 10.0
REDRAWS_PER_SECOND = 4.0
WINDOW_SECONDS = 30.0  # over which the rate is measured


class Progress:
    """What is done of `total`, and how fast it went lately."""

    def __init__(self, total: int, label: str, unit: str, done: int, show: "Show") -> None:
        self.total, self.label, self.unit, self.done = total, label, unit, done
        self._show = show
        self._began = time.monotonic()
        self._points = deque([(self._began, done)])

    def advance(self, count: int = 1) -> None:
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """`done` of the total are done now."""
        self.done = done
        now = time.monotonic()
        self._points.append((now, done))
        while len(self._points) > 2 and now - self._points[1][0] > WINDOW_SECONDS:
            self._points.popleft()
        self._show.step(self)

    @property
    def rate(self) -> float:
        """Units per second; 0 while nothing is known."""
        (began, first), (ended, last) = self._points[0], self._points[-1]
        return (last - first) / (ended - began) if ended > began else 0.0

    def text(self) -> str:
        """120 of 3000 steps, 48.1 steps/s, 0:01:00 left."""
        parts = [f"{self.done} of {self.total} {self.unit}"]
        if self.rate > 0:
            parts.append(f"{_short(self.rate)} {self.unit}/s")
            seconds = (self.total - self.done) / self.rate
            parts.append(f"{_clock(seconds)} left" if seconds else f"took {_clock(time.monotonic() - self._began)}")
        return ", ".join(parts)


class Show(Protocol):
    """How progress is made visible."""

    def step(self, progress: Progress) -> None: ...

    def end(self, progress: Progress) -> None: ...


class Lines:
    """One line every `LINE_SECONDS`, and one at the end."""

    def __init__(self) -> None:
        self.shown_at = time.monotonic()

    def step(self, progress: Progress) -> None:
        if progress.done < progress.total and time.monotonic() - self.shown_at >= LINE_SECONDS:
            self.end(progress)

    def end(self, progress: Progress) -> None:
        self.shown_at = time.monotonic()
        print(f"{progress.label}: {progress.text()}", file=sys.stderr, flush=True)


class Bar:
    """A bar that is redrawn in place, and stays when the work has ended."""

    def __init__(self) -> None:
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(file=sys.stderr),
            refresh_per_second=REDRAWS_PER_SECOND,
            redirect_stdout=False,
        )
        self.task = self.bars.add_task("", total=None, text="")
        self.bars.start()

    def step(self, progress: Progress) -> None:
        self.bars.update(
            self.task,
            description=progress.label,
            total=progress.total,
            completed=progress.done,
            text=progress.text(),
        )

    def end(self, progress: Progress) -> None:
        self.step(progress)
        self.bars.stop()


@contextmanager
def progress(total: int, label: str, unit: str, done: int = 0) -> Iterator[Progress]:
    """Yields what to tell how far it is. `done`: before it began, by a run that was killed.

    unit: plural, such as "steps". One at a time, for a terminal has one last line.
    """
    show = Bar() if sys.stderr.isatty() else Lines()
    work = Progress(total, label, unit, done, show)
    try:
        yield work
    finally:
        show.end(work)


def counted(items: Sequence[Item], label: str, unit: str) -> Iterator[Item]:
    """The items, with progress: one is done when the next is asked for."""
    yield from counted_of(items, len(items), label, unit)


def counted_of(items: Iterable[Item], total: int, label: str, unit: str) -> Iterator[Item]:
    """`total` items that come one by one, with progress."""
    with progress(total, label, unit) as work:
        for item in items:
            yield item
            work.advance()


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
