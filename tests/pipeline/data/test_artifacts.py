import errno
import json
import math
import random
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.data.artifacts import Artifact, canonical, digest_of, key_of, read_artifact
from pipeline.errors import ArtifactError, StoreError
from pipeline.store.process_id import ProcessId
from pipeline.store.publish import new_artifact
from tests.support.children import kill, start


def make(out: Path, weights: bytes = b"weights", note: str = "") -> Artifact:
    with new_artifact(out, "pretrain", "edm", {"steps": 10, "lr": 1e-3}, {"data": "ab" * 32}) as draft:
        (draft.path / "weights.safetensors").write_bytes(weights)
        (draft.path / "history").mkdir()
        (draft.path / "history" / "loss.csv").write_text("step,loss\n" + note)
        draft.facts["images"] = 1297
        draft.seeds["training"] = 3
    return draft.artifact


def left_beside(out: Path) -> list[Path]:
    return [path for path in out.parent.iterdir() if path != out]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1.0, 0.5, True, None]}, '{"a":[1,0.5,true,null],"b":1}'),
        ((1e3, -0.0, 1e-4, "é"), '[1000,0,0.0001,"\\u00e9"]'),
        ([math.inf, -math.inf, math.nan], "[Infinity,-Infinity,NaN]"),
    ],
)
def test_equal_values_have_one_canonical_text(value: object, text: str):
    assert canonical(value) == text


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {1, 2}}, Path("x"), b"bytes"])
def test_what_json_does_not_have_is_refused_instead_of_guessed(value: object):
    with pytest.raises(TypeError):
        canonical(value)


def test_a_key_depends_on_stage_config_inputs_and_code_and_on_nothing_else():
    key = key_of("pretrain", {"lr": 1.0, "steps": 10}, {"data": "aa"}, "v1")
    assert key == key_of("pretrain", {"steps": 10, "lr": 1}, {"data": "aa"}, "v1")
    others = [
        key_of("sample", {"lr": 1.0, "steps": 10}, {"data": "aa"}, "v1"),
        key_of("pretrain", {"lr": 1.0, "steps": 11}, {"data": "aa"}, "v1"),
        key_of("pretrain", {"lr": 1.0, "steps": 10}, {"data": "bb"}, "v1"),
        key_of("pretrain", {"lr": 1.0, "steps": 10}, {"data": "aa"}, "v2"),
    ]
    assert len({key, *others}) == 5


def test_an_artifact_reads_back_as_it_was_made(tmp_path: Path):
    made = make(tmp_path / "edm")
    read = read_artifact(tmp_path / "edm")
    assert read == made
    assert sorted(read.manifest.files) == ["history/loss.csv", "weights.safetensors"]
    assert read.manifest.facts == {"images": 1297}
    assert read.manifest.seeds == {"training": 3}
    written = json.loads((tmp_path / "edm" / "manifest.json").read_text())
    assert read.digest == digest_of({key: value for key, value in written.items() if key != "name"})


def test_making_it_again_elsewhere_gives_the_same_bytes_and_digest(tmp_path: Path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    assert first.digest == second.digest
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()
    assert make(tmp_path / "c", weights=b"weightz").digest != first.digest


def test_a_new_artifact_replaces_an_older_one_whole(tmp_path: Path):
    make(tmp_path / "edm")
    with new_artifact(tmp_path / "edm", "pretrain", "edm", {}, {}) as draft:
        (draft.path / "other").write_bytes(b"other")
    assert sorted(path.name for path in (tmp_path / "edm").iterdir()) == ["manifest.json", "other"]
    assert left_beside(tmp_path / "edm") == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda out: (out / "weights.safetensors").write_bytes(b"w"),
            r"1 bytes, the manifest lists 7: remove .*edm ",
        ),
        (
            lambda out: (out / "weights.safetensors").write_bytes(b"weightz"),
            r"weights\.safetensors: its SHA-256 differs from",
        ),
        (
            lambda out: (out / "weights.safetensors").unlink(),
            r"weights\.safetensors: missing, .* run pretrain edm again",
        ),
        (lambda out: (out / "manifest.json").unlink(), r"no manifest\.json, .* run the stage"),
        (lambda out: (out / "manifest.json").write_text('{"stage": "pre'), r"manifest\.json: not a manifest"),
        (lambda out: (out / "manifest.json").write_text("{}"), r"manifest\.json: not a manifest"),
        (lambda out: out.rename(out.with_name("gone")), r"edm: does not exist: run the stage"),
    ],
)
def test_a_damaged_artifact_is_refused_with_one_clear_line(tmp_path: Path, damage, message: str):
    make(tmp_path / "edm")
    damage(tmp_path / "edm")
    with pytest.raises(ArtifactError, match=message) as refusal:
        read_artifact(tmp_path / "edm")
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_a_manifest_may_not_lead_out_of_its_folder(tmp_path: Path):
    make(tmp_path / "edm")
    manifest = tmp_path / "edm" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("history/loss.csv", "../loss.csv"))
    with pytest.raises(ArtifactError, match=r"leads out"):
        read_artifact(tmp_path / "edm")


def test_an_error_while_making_leaves_the_older_artifact_alone(tmp_path: Path):
    before = make(tmp_path / "edm")

    def fail_halfway() -> None:
        with new_artifact(tmp_path / "edm", "pretrain", "edm", {}, {}) as draft:
            (draft.path / "weights.safetensors").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert read_artifact(tmp_path / "edm") == before
    assert left_beside(tmp_path / "edm") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """256 KiB of disk; where one may not mount, a limit of 256 KiB per file, which fails in the same way."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode == 0:
        yield disk
        subprocess.run(["umount", disk], check=True)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, hard))
        yield disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("older", [False, True])
def test_a_full_disk_is_one_clear_line_and_nothing_half_written(small_disk: Path, older: bool):
    out = small_disk / "edm"
    before = make(out) if older else None
    with pytest.raises(StoreError, match=r"edm: (no space left on device|file too large) .* make room") as refusal:
        make(out, weights=b"x" * 2**19)
    assert "\n" not in str(refusal.value)
    assert left_beside(out) == []
    assert (read_artifact(out) if out.exists() else None) == before


@pytest.mark.parametrize(
    "words", ["I/O error: No space left on device (os error 28)", "[Errno 122] Disk quota exceeded"]
)
def test_a_full_disk_is_recognised_whatever_library_reports_it(tmp_path: Path, words: str):
    with pytest.raises(StoreError, match=r"edm: "), new_artifact(tmp_path / "edm", "pretrain", "edm", {}, {}):
        raise RuntimeError(words)


def test_other_errors_of_the_system_pass_unchanged(tmp_path: Path):
    with pytest.raises(OSError, match="Input/output"), new_artifact(tmp_path / "edm", "pretrain", "edm", {}, {}):
        raise OSError(errno.EIO, "Input/output error")


def test_a_file_where_a_folder_should_be_is_one_clear_line(tmp_path: Path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match=r"out: no folder can be made there"):
        make(tmp_path / "out" / "edm")


MAKES_ARTIFACTS = """
import sys
from pathlib import Path
from pipeline.store.publish import new_artifact
print("ready", flush=True)
for turn in range(10**6):
    with new_artifact(Path(sys.argv[1]), "pretrain", "edm", {"turn": turn}, {}) as draft:
        for part in range(5):
            (draft.path / f"part{part}").write_bytes(bytes([turn % 256]) * 50_000)
"""


def test_a_kill_at_any_moment_leaves_a_whole_artifact_or_none_and_the_next_run_sweeps(tmp_path: Path):
    out, moments = tmp_path / "edm", random.Random(0)
    for _ in range(10):
        child = start(MAKES_ARTIFACTS, out)
        time.sleep(moments.uniform(0, 0.05))
        kill(child)
        if out.exists():
            read_artifact(out)
    make(out)
    assert left_beside(out) == []


def test_only_what_dead_processes_left_is_swept(tmp_path: Path):
    here = ProcessId.current()
    dead = tmp_path / f".ddpm.tmp~0123abcd~{here.pid}~{here.started - 3600}~{here.host}"
    living = tmp_path / f".ddpm.tmp~0123abcd~{here.pid}~{here.started}~{here.host}"
    elsewhere = tmp_path / f".ddpm.tmp~0123abcd~1~{here.started}~another-machine"
    foreign = tmp_path / ".notes.tmp~"
    for path in (dead, living, elsewhere, foreign):
        path.mkdir()
    make(tmp_path / "edm")
    assert sorted(left_beside(tmp_path / "edm")) == sorted([living, elsewhere, foreign])
