"""Processes: identity, whether one still runs, and an orderly end on SIGTERM."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

from pipeline.console import say
from pipeline.context import Worker
from pipeline.errors import Interrupted

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

GRACE_SECONDS = 30.0  # to save, and to stop in order, before being killed: what Kubernetes and Ray give by default


class Stopped(SystemExit):
    """SIGTERM arrived: leave through every `finally`, then exit with the code a terminated process has."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def on_sigterm() -> None:
    """Raise `Stopped` in the main thread at the first SIGTERM; later ones are ignored, for cleaning up must not be cut.

    Call it in the main thread, and again after anything that installs its own handler (ray.init).
    """

    def stop(signum: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def sigterm_postponed() -> Iterator[threading.Event]:
    """Within, SIGTERM interrupts nothing: it sets the event, and takes effect at the end.

    One that comes GRACE_SECONDS after the first takes effect at once. Only the main thread can be spared.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before, first = signal.getsignal(signal.SIGTERM), 0.0

    def note(signum: int, frame: object) -> None:
        nonlocal first
        if not asked.is_set():
            first = time.monotonic()
            asked.set()
        elif time.monotonic() - first > GRACE_SECONDS:
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    except Interrupted as saved:
        if asked.is_set():  # or else it is the caller's to say
            say(str(saved))
        raise
    finally:
        if signal.getsignal(signal.SIGTERM) is note:
            signal.signal(signal.SIGTERM, before)
            if asked.is_set():
                signal.raise_signal(signal.SIGTERM)


def alone(loop: Callable[[Worker, *Ts], T], *args: *Ts) -> T:
    """The loop as the one worker there is, in this process, told to stop by SIGTERM."""
    from methods.core.devices import current_device

    with sigterm_postponed() as told:
        return loop(Worker(0, 1, current_device(), None, told.is_set), *args)
