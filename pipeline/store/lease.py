"""Who computes a key: one at a time, and nobody waits for the dead."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pipeline.console import say
from pipeline.errors import StoreError
from pipeline.store.backend import Backend
from pipeline.store.process_id import ProcessId

BEAT_SECONDS = 10.0
SILENCE_SECONDS = 60.0  # of a process on another machine, after which it counts as dead
POLL_SECONDS = 0.2


class Owner(NamedTuple):
    process: ProcessId
    token: str  # one process may hold, or want, several leases

    def is_gone(self, silent_seconds: float) -> bool:
        return not self.process.is_alive() or (not self.process.is_here and silent_seconds > SILENCE_SECONDS)


def lease_name(key: str) -> str:
    return f"leases/{key}.json"


@contextmanager
def lease(place: Backend, key: str) -> Iterator[None]:
    """Held by one caller at a time, who looks for the result once more. Waits while the owner lives, saying who it is.

    In a folder a lock makes this exact. In a bucket two callers who come within the same moment may, rarely, both
    compute; then the first result stays, so nothing is wrong but the time.
    """
    name, mine = lease_name(key), Owner(ProcessId.current(), uuid.uuid4().hex)
    told = None
    while (owner := _take(place, name, mine)) is not None:
        if owner not in (told, mine):
            say(f"waiting for {owner.process}, which is computing {key[:12]}")
            told = owner
        time.sleep(max(POLL_SECONDS, place.settle_seconds))
    done = threading.Event()
    heart = threading.Thread(target=_beat, args=(place, name, mine, done), name=f"lease {key[:12]}", daemon=True)
    heart.start()
    try:
        yield
    finally:
        done.set()
        heart.join()
        with place.guard():
            if _owner(place, name) == mine:
                place.remove(name)


def _take(place: Backend, name: str, mine: Owner) -> Owner | None:
    """The living owner, or None if the lease is ours now."""
    with place.guard():
        owner, info = _owner(place, name), place.info(name)
        if owner is not None and info is not None and not owner.is_gone(info.age_seconds):
            return owner
        if owner is not None:
            say(f"{owner.process} is gone: taking over")
        _write(place, name, mine)
    time.sleep(place.settle_seconds)
    winner = _owner(place, name)
    return None if winner == mine else winner or mine


def _beat(place: Backend, name: str, mine: Owner, done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        try:
            with place.guard():
                owner = _owner(place, name)
                if owner != mine:
                    by = owner.process if owner else "nobody"
                    say(f"{mine.process} was silent for too long: its lease went to {by}; the first result will stay")
                    return
                _write(place, name, mine)
        except StoreError:  # a full disk or a lost network: the computation will meet it too, and say so
            continue


def _owner(place: Backend, name: str) -> Owner | None:
    text = place.read(name)
    if text is None:
        return None
    try:
        record = json.loads(text)
        return Owner(ProcessId(record["host"], record["pid"], record["started"]), record["token"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{name} in the store is no lease ({error}): remove it if nothing is running") from error


def _write(place: Backend, name: str, owner: Owner) -> None:
    place.write(name, json.dumps(owner.process._asdict() | {"token": owner.token}).encode())
