"""An orderly end on SIGTERM."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.console import say
from pipeline.context import T, Ts, Worker
from pipeline.errors import Interrupted

GRACE_SECONDS = 30.0  # to save, and to stop in order, before being killed: what Kubernetes and Ray give by default


class Stopped(SystemExit):
    """Raised at SIGTERM: every `finally` runs, and the exit code is that of a terminated process."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def on_sigterm() -> None:
    """Raise `Stopped` in the main thread at the first SIGTERM; later ones are ignored, so that cleaning up is not cut.

    Call it in the main thread, and again after anything that installs its own handler (ray.init).
    """

    def stop(signum: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def sigterm_postponed() -> Iterator[threading.Event]:
    """Within, SIGTERM interrupts nothing: it sets the event, and takes effect at the end.

    One that comes GRACE_SECONDS after the first takes effect at once. Outside the main thread this does nothing.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    handler, first = signal.getsignal(signal.SIGTERM), 0.0

    def note(signum: int, frame: object) -> None:
        nonlocal first
        if not requested.is_set():
            first = time.monotonic()
            requested.set()
        elif time.monotonic() - first > GRACE_SECONDS:
            signal.signal(signal.SIGTERM, handler)
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, note)
    try:
        yield requested
    except Interrupted as saved:
        if requested.is_set():  # otherwise the caller prints it
            say(str(saved))
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is note:
            signal.signal(signal.SIGTERM, handler)
            if requested.is_set():
                signal.raise_signal(signal.SIGTERM)


def run_as_only_worker(loop: Callable[[Worker, *Ts], T], *args: *Ts) -> T:
    """Run the loop in this process, as worker 0 of 1; SIGTERM sets its `must_stop`."""
    from methods.core.devices import current_device

    with sigterm_postponed() as requested:
        return loop(Worker(0, 1, current_device(), None, requested.is_set), *args)
