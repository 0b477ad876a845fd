import json
import os
import threading
import time
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from pipeline.data.artifacts import read_artifact
from pipeline.errors import StoreError
from pipeline.store.bucket import Bucket
from pipeline.store.lease import lease
from pipeline.store.local import Backend, LocalBackend
from pipeline.store.process_id import ProcessId
from tests.support.children import kill, start, wait_for

KEY = "c0ffee" * 10 + "0000"

COMPUTES = """
import sys, time
from pathlib import Path
from pipeline.store.publish import new_artifact
from pipeline.launch.signals import on_sigterm
from pipeline.store.store import Store
on_sigterm()
store, key, out, seconds = Store(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
def compute():
    print("computing", flush=True)
    time.sleep(seconds)
    with new_artifact(out, "pretrain", "edm", {}, {}) as draft:
        (draft.path / "data").write_text(out.name)
    store.put(key, draft.artifact)
with store.lease(key):
    if store.fetch(key, out):
        print("from the store", flush=True)
    else:
        compute()
"""
COMES_AND_COMPUTES = COMPUTES.replace("on_sigterm()", "on_sigterm(); print('here', flush=True)")


@pytest.fixture(params=["folder", "bucket"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A folder, and what stands for a bucket: pyarrow's file system, without locks."""
    if request.param == "folder":
        return LocalBackend(tmp_path)
    monkeypatch.setattr(Bucket, "settle_seconds", 0.3)
    return Bucket(LocalFileSystem(), str(tmp_path), "file://store")


def owner_file(store: Path) -> Path:
    return store / "leases" / f"{KEY}.json"


def test_two_processes_on_one_key_compute_once(tmp_path: Path):
    store = tmp_path / "store"
    children = [start(COMPUTES, store, KEY, tmp_path / str(i), 2) for i in range(3)]
    printed = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert {(tmp_path / str(i) / "data").read_text() for i in range(3)} == {"0"}
    assert f"waiting for process {children[0].pid} on " in printed[1]
    assert not owner_file(store).exists()


def test_many_processes_that_start_together_compute_once(tmp_path: Path):
    children = [start(COMES_AND_COMPUTES, tmp_path / "store", KEY, tmp_path / str(i), 0.2) for i in range(5)]
    printed = [child.communicate()[0] for child in children]
    assert sorted(line for text in printed for line in text.splitlines()) == ["computing"] + ["from the store"] * 4


def test_the_next_takes_over_at_once_when_the_owner_is_killed(tmp_path: Path):
    owner = start(COMPUTES, tmp_path / "store", KEY, tmp_path / "a", 600)
    waiting = start(COMES_AND_COMPUTES, tmp_path / "store", KEY, tmp_path / "b", 0)
    time.sleep(0.5)
    assert waiting.poll() is None
    killed = time.monotonic()
    kill(owner)
    _, printed = waiting.communicate()
    assert time.monotonic() - killed < 2
    assert f"process {owner.pid} on " in printed
    assert "taking over" in printed
    assert read_artifact(tmp_path / "b")


def test_a_terminated_owner_gives_the_lease_back_and_exits_with_143(tmp_path: Path):
    owner = start(COMPUTES, tmp_path / "store", KEY, tmp_path / "a", 600)
    assert owner_file(tmp_path / "store").exists()
    owner.terminate()
    _, printed = owner.communicate()
    assert owner.returncode == 143
    assert printed == ""
    assert not owner_file(tmp_path / "store").exists()
    assert not (tmp_path / "a").exists()


def hold_elsewhere(backend: Backend, store: Path, silent_seconds: float) -> None:
    with lease(backend, KEY):
        record = json.loads(owner_file(store).read_text())
    owner_file(store).write_text(json.dumps(record | {"host": "another-machine", "token": "another"}))
    then = time.time() - silent_seconds
    os.utime(owner_file(store), (then, then))


def test_an_owner_on_another_machine_is_dead_after_a_minute_of_silence(backend: Backend, tmp_path: Path):
    hold_elsewhere(backend, tmp_path, silent_seconds=61)
    begun = time.monotonic()
    with lease(backend, KEY):
        assert time.monotonic() - begun < 2


def test_an_owner_on_another_machine_that_was_heard_of_is_waited_for(backend: Backend, tmp_path: Path, capsys):
    hold_elsewhere(backend, tmp_path, silent_seconds=30)
    threading.Timer(0.5, owner_file(tmp_path).unlink).start()
    begun = time.monotonic()
    with lease(backend, KEY):
        assert time.monotonic() - begun > 0.4
    assert capsys.readouterr().err.count("waiting for process") == 1


def test_an_owner_whose_clock_ran_ahead_is_dead_after_a_minute_without_a_change(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipeline.store.lease.EXPIRY_SECONDS", 0.5)
    hold_elsewhere(backend, tmp_path, silent_seconds=-86_400)
    begun = time.monotonic()
    with lease(backend, KEY):
        assert 0.4 < time.monotonic() - begun < 20


def test_threads_take_turns(backend: Backend):
    inside: list[int] = []
    crowd: list[int] = []

    def work(worker: int) -> None:
        with lease(backend, KEY):
            inside.append(worker)
            time.sleep(0.1)
            crowd.append(len(inside))
            inside.remove(worker)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert crowd == [1, 1, 1]


def test_the_lease_names_its_owner_whose_heart_beats(backend: Backend, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("pipeline.store.lease.HEARTBEAT_SECONDS", 0.05)
    with lease(backend, KEY):
        os.utime(owner_file(tmp_path), (0, 0))
        assert wait_for(lambda: time.time() - owner_file(tmp_path).stat().st_mtime < 5, 5)
        record = json.loads(backend.read(f"leases/{KEY}.json") or b"")
        assert ProcessId(record["host"], record["pid"], record["started"]) == ProcessId.current()


def test_who_lost_the_lease_says_so_and_leaves_it_to_the_new_owner(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.store.lease.HEARTBEAT_SECONDS", 0.05)
    backend = LocalBackend(tmp_path)
    with lease(backend, KEY):
        with backend.guard():
            record = json.loads(owner_file(tmp_path).read_text())
            owner_file(tmp_path).write_text(json.dumps(record | {"token": "another"}))
        time.sleep(0.5)
    assert capsys.readouterr().err.count("the first result will stay") == 1
    assert owner_file(tmp_path).exists()


def test_a_file_that_is_no_lease_is_one_clear_line(tmp_path: Path):
    backend = LocalBackend(tmp_path)
    backend.write(f"leases/{KEY}.json", b"{}")
    with pytest.raises(StoreError, match=r"is no lease .* remove it"), lease(backend, KEY):
        pass
