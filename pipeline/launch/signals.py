"""The life of a process: who it is, whether it still runs, and how it ends in order."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from pipeline.console import say
from pipeline.errors import Interrupted
from pipeline.store.process_id import ProcessId

PARENT_POLL_SECONDS = 0.5
GRACE_SECONDS = 30.0  # to save, and to stop in order, before being killed: what Kubernetes and Ray give by default
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


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


def die_with_parent() -> None:
    """Under `dvc repro`: stop when DVC dies, even by kill -9. Elsewhere (DVC_STAGE is not set) do nothing.

    DVC starts a shell and the shell starts us, or becomes us. The kernel reports the death of a direct parent at once;
    a thread watches for the death of the DVC above a shell.
    """
    stage = os.environ.get("DVC_STAGE")
    if stage is None:
        return
    end_with_parent()
    threading.Thread(target=_stop_after, args=(_starter(stage),), name="watch-dvc", daemon=True).start()


def end_with_parent() -> None:
    """On Linux: SIGTERM when the thread that started this process ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _starter(stage: str) -> ProcessId | None:
    """The process that set DVC_STAGE: the first ancestor that does not have it. None if it is gone already."""
    try:
        for ancestor in psutil.Process().parents():
            if _stage_of(ancestor) != stage:
                return None if _is_foster_parent(ancestor) else ProcessId.of(ancestor)
    except psutil.NoSuchProcess:
        pass
    return None


def _stage_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("DVC_STAGE")
    except psutil.AccessDenied:  # another user's process is no shell that DVC started
        return None


def _is_foster_parent(ancestor: psutil.Process) -> bool:
    """Orphans are handed to process 1; a DVC that is process 1 itself (in a container) shares our process group."""
    return ancestor.pid == 1 and os.getpgid(1) != os.getpgrp()


def _stop_after(starter: ProcessId | None) -> None:
    while starter is not None and starter.is_alive():
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(128 + signal.SIGTERM)
