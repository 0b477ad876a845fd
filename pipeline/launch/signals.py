"""An orderly end on SIGTERM and Ctrl-C."""

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
def stop_postponed() -> Iterator[threading.Event]:
    """Within, SIGTERM and Ctrl-C interrupt nothing: they set the event, and take effect at the end.

    At once does a second Ctrl-C, or a SIGTERM that comes GRACE_SECONDS after the first signal. Outside the main thread
    this does nothing.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    handlers = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    first, first_time = 0, 0.0

    def restore() -> None:
        while handlers:
            signal.signal(*handlers.popitem())

    def note(signum: int, frame: object) -> None:
        nonlocal first, first_time
        if not requested.is_set():
            first, first_time = signum, time.monotonic()
            requested.set()
        elif signum == signal.SIGINT or time.monotonic() - first_time > GRACE_SECONDS:
            restore()
            signal.raise_signal(signum)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield requested
    except Interrupted as saved:
        if requested.is_set():  # otherwise the caller prints it
            say(str(saved))
        raise
    finally:
        is_postponed = requested.is_set() and bool(handlers)
        restore()
        if is_postponed:
            signal.raise_signal(first)


def run_as_only_worker(loop: Callable[[Worker, *Ts], T], *args: *Ts) -> T:
    """Run the loop in this process, as worker 0 of 1; SIGTERM and Ctrl-C set its `must_stop`."""
    from methods.core.devices import current_device

    with stop_postponed() as requested:
        return loop(Worker(0, 1, current_device(), None, requested.is_set), *args)
