"""A lease on a key: one process computes it at a time; the lease of a process that ended is taken over."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pipeline.console import say
from pipeline.errors import StoreError
from pipeline.store.local import Backend
from pipeline.store.process_id import ProcessId

HEARTBEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0  # without a heartbeat of a process on another machine, which then counts as ended
POLL_SECONDS = 0.2


class Owner(NamedTuple):
    process: ProcessId
    token: str  # one process may hold, or want, several leases

    def is_gone(self, silent_seconds: float) -> bool:
        return not self.process.is_alive() or (not self.process.is_here and silent_seconds > EXPIRY_SECONDS)


class Silence:
    """How long a lease was not renewed: since the time of its file, or since this process first saw it as it is.

    The second is for the file of a clock that ran ahead.
    """

    def __init__(self) -> None:
        self._seen: tuple[Owner, float] | None = None
        self._since = 0.0

    def seconds(self, owner: Owner, written: float) -> float:
        if self._seen != (owner, written):
            self._seen, self._since = (owner, written), time.monotonic()
        return max(time.time() - written, time.monotonic() - self._since)


def lease_name(key: str) -> str:
    return f"leases/{key}.json"


@contextmanager
def lease(backend: Backend, key: str) -> Iterator[None]:
    """Held by one caller at a time; waits while another owner is alive, and prints once which process that is.

    In a folder a lock makes this exact. In a bucket (pyarrow.fs has no conditional write) two callers that come within
    the same moment may, rarely, both compute; the first result stays, so only time is lost.
    """
    name, own = lease_name(key), Owner(ProcessId.current(), uuid.uuid4().hex)
    announced, silence = own, Silence()
    while (owner := _take(backend, name, own, silence)) is not None:
        if owner not in (announced, own):
            say(f"waiting for {owner.process}, which is computing {key[:12]}")
            announced = owner
        time.sleep(max(POLL_SECONDS, backend.settle_seconds))
    done = threading.Event()
    heartbeat = threading.Thread(target=_renew, args=(backend, name, own, done), name=f"lease {key[:12]}", daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        done.set()
        heartbeat.join()
        with backend.guard():
            if _owner(backend, name) == own:
                backend.remove(name)


def _take(backend: Backend, name: str, own: Owner, silence: Silence) -> Owner | None:
    """None if the lease is taken, else the owner to wait for."""
    with backend.guard():
        owner, info = _owner(backend, name), backend.info(name)
        if owner is not None and info is not None and not owner.is_gone(silence.seconds(owner, info.written)):
            return owner
        if owner is not None:
            say(f"{owner.process} is gone: taking over")
        _write(backend, name, own)
    time.sleep(backend.settle_seconds)
    winner = _owner(backend, name)
    return None if winner == own else winner or own


def _renew(backend: Backend, name: str, own: Owner, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        try:
            with backend.guard():
                owner = _owner(backend, name)
                if owner != own:
                    new = owner.process if owner else "no process"
                    say(f"{own.process} was silent for too long: its lease went to {new}; the first result will stay")
                    return
                _write(backend, name, own)
        except StoreError:  # a full disk or a lost network: the computation fails with the same error
            continue


def _owner(backend: Backend, name: str) -> Owner | None:
    text = backend.read(name)
    if text is None:
        return None
    try:
        record = json.loads(text)
        return Owner(ProcessId(record["host"], record["pid"], record["started"]), record["token"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{name} in the store is no lease ({error}): remove it if nothing is running") from error


def _write(backend: Backend, name: str, owner: Owner) -> None:
    backend.write(name, json.dumps(owner.process._asdict() | {"token": owner.token}).encode())
