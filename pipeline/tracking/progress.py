"""Progress of a stage on stderr: a bar on a terminal, elsewhere a line every LINE_SECONDS."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from pipeline.console import say

LINE_SECONDS = 10.0
REDRAW_SECONDS = 0.25
STATE_FORMAT = "{n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, {elapsed} elapsed, {remaining} left"


class LineWriter:
    """A file for tqdm, which rewrites one line by carriage returns: here every state is a new line."""

    def write(self, text: str) -> None:
        if line := text.strip():
            say(line)

    def flush(self) -> None:
        """`say` has flushed."""


@contextmanager
def progress(total: int, label: str, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number done so far.

    unit: plural, such as "steps". done: by an earlier, killed run; not counted in the rate.
    """
    is_terminal = sys.stderr.isatty()
    bar = tqdm(
        total=total,
        initial=done,
        desc=label,
        unit=f" {unit}",
        file=sys.stderr if is_terminal else LineWriter(),
        mininterval=REDRAW_SECONDS if is_terminal else LINE_SECONDS,
        miniters=1,
        delay=0 if is_terminal else 1e-3,  # no line before the first interval
        leave=is_terminal,
        dynamic_ncols=is_terminal,
        bar_format=("{desc} {bar} " if is_terminal else "{desc}: ") + STATE_FORMAT,
    )

    def show(now: int) -> None:
        if now < total:
            bar.update(now - bar.n)
        else:
            bar.n = now  # shown at the end, once

    with bar:
        try:
            yield show
        finally:
            bar.refresh()
