"""The life of a process: who it is, whether it still runs, and how it ends in order."""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from pipeline.errors import Interrupted

SAME_START_SECONDS = 2.0  # a clock correction shifts start times a little; no process number comes round that fast
PARENT_POLL_SECONDS = 0.5
GRACE_SECONDS = 30.0  # to save, and to stop in order, before being killed: what Kubernetes and Ray give by default
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


class ProcessId(NamedTuple):
    """One process, told apart from a later one with the same number."""

    host: str
    pid: int
    started: float  # seconds since the epoch

    @classmethod
    def current(cls) -> "ProcessId":
        return cls.of(psutil.Process())

    @classmethod
    def of(cls, process: psutil.Process) -> "ProcessId":
        return cls(socket.gethostname(), process.pid, round(process.create_time(), 2))

    @property
    def is_here(self) -> bool:
        """Whether it belongs to this machine, so that `is_alive` is knowledge and not courtesy."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """False only if it surely ended: of another machine's process nothing can be known from here."""
        if not self.is_here:
            return True
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < SAME_START_SECONDS
            return same and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


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
            print(saved, file=sys.stderr, flush=True)
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
