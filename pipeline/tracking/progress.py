"""Progress of a stage on stderr: a bar on a terminal, elsewhere a line now and then."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from pipeline.console import say

LINE_SECONDS = 10.0
REDRAW_SECONDS = 0.25
STATE = "{n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, {elapsed} elapsed, {remaining} left"


class Lines:
    """A file for tqdm, which rewrites one line by carriage returns: every state becomes a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            say(line)

    def flush(self) -> None:
        """`say` does."""


@contextmanager
def progress(total: int, label: str, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes how many of the total are done now.

    unit: plural, such as "steps". done: at the start, by a run that was killed; it does not count into the rate.
    """
    is_terminal = sys.stderr.isatty()
    bar = tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=f" {unit}",
        file=sys.stderr if is_terminal else Lines(),
        mininterval=REDRAW_SECONDS if is_terminal else LINE_SECONDS,
        miniters=1,
        delay=0 if is_terminal else 1e-3,  # no line before the first interval
        leave=is_terminal,
        dynamic_ncols=is_terminal,
        bar_format=("{desc} {bar} " if is_terminal else "{desc}: ") + STATE,
    )

    def reach(now: int) -> None:
        if now < total:
            bar.update(now - bar.n)
        else:
            bar.n = now  # shown at the end, once

    with bar:
        try:
            yield reach
        finally:
            bar.refresh()
