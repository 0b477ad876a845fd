import pickle
import random
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from pipeline.data import artifacts
from pipeline.data.artifacts import Artifact, read_artifact
from pipeline.errors import ArtifactError, ConfigError, StoreError
from pipeline.store.bucket import Bucket
from pipeline.store.publish import new_artifact
from pipeline.store.store import Store
from tests.support.children import kill, start

KEY = "c0ffee" * 10 + "0000"
OTHER = "dead" * 16


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """In a folder, and in what stands for a bucket: pyarrow's file system, without locks and renames of folders."""
    store = Store(str(tmp_path / "store"))
    if request.param == "bucket":
        monkeypatch.setattr(Bucket, "settle_seconds", 0.05)
        bucket = Bucket(LocalFileSystem(), str(tmp_path / "store"), "file://store")
        monkeypatch.setattr("pipeline.store.store.open_backend", lambda uri: bucket)
        store.backend = bucket
    return store


def make(out: Path, weights: bytes = b"weights") -> Artifact:
    with new_artifact(out, "pretrain", "edm", {"steps": 10}, {"data": "ab" * 32}) as draft:
        (draft.path / "weights.safetensors").write_bytes(weights)
        (draft.path / "history").mkdir()
        (draft.path / "history" / "loss.csv").write_text("step,loss\n")
    return draft.artifact


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != ".guard"]


def test_a_result_comes_back_as_the_same_bytes(store: Store, tmp_path: Path):
    made = make(tmp_path / "edm")
    assert not store.has(KEY)
    assert store.fetch(KEY, tmp_path / "again") is None
    store.put(KEY, read_artifact(tmp_path / "edm"))
    assert store.has(KEY)
    fetched = store.fetch(KEY, tmp_path / "again")
    assert fetched is not None
    assert fetched.digest == made.digest
    assert contents(tmp_path / "again") == contents(tmp_path / "edm")
    assert read_artifact(tmp_path / "again").digest == made.digest
    assert hidden(tmp_path) == []


def test_a_fetched_result_replaces_what_lay_there(store: Store, tmp_path: Path):
    make(tmp_path / "edm")
    store.put(KEY, read_artifact(tmp_path / "edm"))
    make(tmp_path / "again", weights=b"older")
    (tmp_path / "again" / "junk").write_text("junk")
    store.fetch(KEY, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "edm")


def test_the_first_result_of_a_key_stays(store: Store, tmp_path: Path):
    first = make(tmp_path / "first")
    make(tmp_path / "second", weights=b"weightz")
    store.put(KEY, read_artifact(tmp_path / "first"))
    store.put(KEY, read_artifact(tmp_path / "second"))
    fetched = store.fetch(KEY, tmp_path / "out")
    assert fetched is not None
    assert fetched.digest == first.digest


def test_a_damaged_artifact_never_enters_the_store(store: Store, tmp_path: Path):
    make(tmp_path / "edm")
    (tmp_path / "edm" / "weights.safetensors").write_bytes(b"weightz")
    with pytest.raises(ArtifactError):
        store.put(KEY, read_artifact(tmp_path / "edm"))
    assert not store.has(KEY)


def test_an_artifact_that_was_damaged_after_it_was_made_never_comes_out_of_the_store(store: Store, tmp_path: Path):
    made = make(tmp_path / "edm")
    (tmp_path / "edm" / "weights.safetensors").write_bytes(b"weightz")
    store.put(KEY, made)
    assert store.fetch(KEY, tmp_path / "out") is None
    assert not store.has(KEY)


def test_a_file_is_hashed_once_on_its_way_into_the_store(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hashed, sha256 = list[str](), artifacts.sha256_of_file
    monkeypatch.setattr(artifacts, "sha256_of_file", lambda file: hashed.append(file.name) or sha256(file))
    made = make(tmp_path / "edm")
    store.put(KEY, made)
    store.lighten(made)
    assert sorted(hashed) == ["loss.csv", "weights.safetensors"]


@pytest.mark.parametrize("damage", ["changed", "cut", "lost", "manifest"])
def test_a_damaged_result_is_moved_away_counts_as_absent_and_can_be_stored_again(
    store: Store, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
):
    made = make(tmp_path / "edm")
    store.put(KEY, read_artifact(tmp_path / "edm"))
    store.put(OTHER, read_artifact(tmp_path / "edm"))  # the same data under another key
    data = tmp_path / "store" / "data" / made.manifest.files["weights.safetensors"].sha256
    match damage:
        case "changed":
            data.write_bytes(b"weightz")
        case "cut":
            data.write_bytes(b"w")
        case "lost":
            data.unlink()
        case "manifest":
            (tmp_path / "store" / "results" / f"{KEY}.json").write_text("{")
    make(tmp_path / "out", weights=b"older")
    assert store.fetch(KEY, tmp_path / "out") is None
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "damaged and moved to corrupt" in line
    assert not store.has(KEY)
    assert read_artifact(tmp_path / "out").digest != made.digest  # what lay there is untouched
    store.put(KEY, read_artifact(tmp_path / "edm"))
    for key in (KEY, OTHER):
        fetched = store.fetch(key, tmp_path / "out")
        assert fetched is not None
        assert fetched.digest == made.digest


def test_training_state_is_kept_by_key_and_name_until_cleared(store: Store):
    state = store.state(KEY)
    assert state.load("checkpoint") is None
    assert state.names() == []
    state.save("checkpoint", b"1")
    state.save("checkpoint", b"22")
    state.save("piece-0.arrow", b"3")
    assert state.names() == ["checkpoint", "piece-0.arrow"]
    assert store.state(OTHER).names() == []
    elsewhere = pickle.loads(pickle.dumps(state))
    assert elsewhere.load("checkpoint") == b"22"
    state.clear()
    state.clear()
    assert state.names() == []


@pytest.mark.parametrize("damage", ["a bit", "cut in half", "empty", "without a digest"])
def test_damaged_training_state_is_moved_away_counts_as_absent_and_can_be_saved_again(
    store: Store, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
):
    state, file = store.state(KEY), tmp_path / "store" / "state" / KEY / "training.pt"
    state.save("training.pt", b"weights" * 100)
    saved = file.read_bytes()
    flipped = saved[:300] + bytes([saved[300] ^ 4]) + saved[301:]
    damaged = {"a bit": flipped, "cut in half": saved[: len(saved) // 2], "empty": b"", "without a digest": saved[32:]}
    file.write_bytes(damaged[damage])
    assert state.load("training.pt") is None
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"training.pt of {KEY[:12]} is damaged and moved to corrupt/" in line
    assert state.names() == []
    assert (tmp_path / "store" / "corrupt" / f"{KEY}-training.pt").read_bytes() == damaged[damage]
    state.save("training.pt", b"weights")
    assert state.load("training.pt") == b"weights"


def test_state_can_be_reached_from_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(Store("store").state(KEY))
    Store("store").state(KEY).save("checkpoint", b"1")
    monkeypatch.chdir("/")
    assert pickle.loads(sent).load("checkpoint") == b"1"


def test_the_ledger_keeps_every_line_in_order(store: Store):
    for step in range(5):
        store.note(KEY, {"event": "computed", "step": step, "seconds": 0.5})
    assert store.notes(KEY) == [{"event": "computed", "step": step, "seconds": 0.5} for step in range(5)]
    assert store.notes(OTHER) == []
    store.note(OTHER, {"event": "reused"})
    assert len(list(store.ledger())) == 6


def test_a_torn_last_line_of_the_ledger_is_ignored_and_does_not_spoil_the_next(tmp_path: Path):
    store = Store(str(tmp_path))
    store.note(KEY, {"event": "started"})
    with (tmp_path / "ledger" / f"{KEY}.jsonl").open("a") as file:
        file.write('{"event": "comp')
    assert store.notes(KEY) == [{"event": "started"}]
    store.note(KEY, {"event": "reused"})
    assert store.notes(KEY) == [{"event": "started"}, {"event": "reused"}]


def test_a_spoilt_line_within_the_ledger_is_named(tmp_path: Path):
    store = Store(str(tmp_path))
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / f"{KEY}.jsonl").write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(StoreError, match=r"jsonl:2: .* repair or remove"):
        store.notes(KEY)


def test_threads_do_not_mix_their_lines_in_the_ledger(store: Store):
    def write(writer: int) -> None:
        for line in range(10):
            store.note(KEY, {"writer": writer, "line": line})

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    notes = store.notes(KEY)
    assert [[note["line"] for note in notes if note["writer"] == writer] for writer in range(4)] == [
        list(range(10))
    ] * 4


@pytest.fixture
def files_up_to_64_kib() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_clear_line_whatever_is_written(tmp_path: Path, files_up_to_64_kib: None):
    store, big = Store(str(tmp_path / "store")), "x" * 2**17
    store.note(KEY, {"event": "started"})
    with pytest.raises(StoreError, match=r"file too large .* make room"):
        store.state(KEY).save("checkpoint", big.encode())
    with pytest.raises(StoreError, match=r"file too large .* make room"):
        store.note(KEY, {"event": big})
    assert store.notes(KEY) == [{"event": "started"}]
    assert store.state(KEY).names() == []
    assert hidden(tmp_path) == []


def test_a_full_disk_while_putting_or_fetching_leaves_nothing_half_written(tmp_path: Path, request):
    store = Store(str(tmp_path / "store"))
    make(tmp_path / "edm", weights=b"x" * 2**17)
    store.put(OTHER, read_artifact(tmp_path / "edm"))
    request.getfixturevalue("files_up_to_64_kib")
    with pytest.raises(StoreError, match=r"out: file too large"):
        store.fetch(OTHER, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    full = Store(str(tmp_path / "full"))
    with pytest.raises(StoreError, match=r"file too large"):
        full.put(KEY, read_artifact(tmp_path / "edm"))
    assert not full.has(KEY)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("uri", ["nowhere://bucket/path", "s3://"])
def test_an_address_that_is_no_store_is_one_clear_line(uri: str):
    with pytest.raises(ConfigError, match=r"give a folder or an address like s3://"):
        Store(uri)


PUTS = """
import sys
from pathlib import Path
from pipeline.data.artifacts import read_artifact
from pipeline.store.store import Store
store, artifact = Store(sys.argv[1]), read_artifact(Path(sys.argv[2]))
print("ready", flush=True)
for turn in range(10**6):
    store.put(f"{turn:064d}", artifact)
    store.state("state").save("checkpoint", bytes([turn % 256]) * 50_000)
    store.fetch(f"{turn:064d}", Path(sys.argv[3]))
    for data in (Path(sys.argv[1]) / "data").iterdir():
        data.unlink()
"""


def test_a_kill_at_any_moment_leaves_nothing_half_written(tmp_path: Path):
    made, moments = make(tmp_path / "edm", weights=b"x" * 200_000), random.Random(1)
    store = Store(str(tmp_path / "store"))
    for _ in range(10):
        child = start(PUTS, store.uri, tmp_path / "edm", tmp_path / "out")
        time.sleep(moments.uniform(0, 0.05))
        kill(child)
        if (tmp_path / "out").exists():
            assert read_artifact(tmp_path / "out").digest == made.digest
        for data in (tmp_path / "store" / "data").glob("[!.]*"):
            assert data.stat().st_size in [entry.bytes for entry in made.manifest.files.values()]
        assert len(set(store.state("state").load("checkpoint") or b"1")) == 1
    store.put(KEY, read_artifact(tmp_path / "edm"))
    store.fetch(KEY, tmp_path / "out")
    store.state("state").save("checkpoint", b"1")
    assert hidden(tmp_path) == []


def test_an_answer_from_the_store_loads_nothing_heavy(tmp_path: Path):
    made = make(tmp_path / "edm")
    Store(str(tmp_path / "store")).put(KEY, made)
    code = """
    import resource, sys
    from pathlib import Path
    from pipeline.dag.code_version import code_version
    from pipeline.store.store import Store
    print("here", flush=True)
    code_version(("pipeline.store.store",), Path.cwd())
    assert Store(sys.argv[1]).fetch(sys.argv[2], Path(sys.argv[3]))
    print(sorted({"torch", "ray", "mlflow", "dvc", "pandas", "pyarrow", "numpy"} & set(sys.modules)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)
    """
    heavy, seconds = start(code, tmp_path / "store", KEY, tmp_path / "out").communicate()[0].splitlines()
    assert heavy == "[]"
    assert float(seconds) < 0.5
