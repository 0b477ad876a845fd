"""A real S3 server on loopback, and stores that cannot be written: the bucket is missing, the folder is read-only."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from pipeline.errors import ArtifactError, StoreError
from pipeline.store.store import Store
from tests.pipeline.data.test_row_index import IMAGES, NUMBERS, left_in_store
from tests.pipeline.store.test_store import KEY, make
from tests.support.toy_study import BIN

NOBODY = 65534


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address, which the environment names too, as infra/README.md has it; it holds a bucket "trilemma"."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    settings = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (settings | {"AWS_ENDPOINT_URL": address, "AWS_EC2_METADATA_DISABLED": "true"}).items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="trilemma")
    yield address
    server.stop()


def test_prepared_pictures_are_read_from_the_bucket_they_stayed_in(s3: str, tmp_path: Path) -> None:
    rows = left_in_store(tmp_path, "s3://trilemma/store")
    assert not rows.is_mapped
    np.testing.assert_array_equal(rows[NUMBERS[::-1]], IMAGES[::-1])
    boto3.client("s3", endpoint_url=s3).delete_object(Bucket="trilemma", Key=f"store/{rows.shards[0].file}")
    with pytest.raises(ArtifactError, match="no longer holds data/"):
        rows.read()


def hold(store: Store) -> None:
    with store.lease(KEY):
        pass


WRITES: dict[str, Callable[[Store], None]] = {
    "a lease": hold,
    "a note": lambda store: store.note(KEY, {"event": "started"}),
    "a checkpoint": lambda store: store.state(KEY).save("checkpoint", b"1"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_missing_bucket_is_one_line_before_any_work(s3: str, write: str) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"^s3://absent/store/.*: Bucket 'absent' not found: make it, or") as caught:
        WRITES[write](Store("s3://absent/store"))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 30  # the promise, not a measurement


@pytest.mark.parametrize("write", WRITES)
def test_a_store_that_can_only_be_read_is_one_line_before_any_work(write: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        Path(home).chmod(0o755)
        folder = Path(home) / "store"
        folder.mkdir(mode=0o555)
        message = as_nobody(lambda: WRITES[write](Store(str(folder))))
        folder.chmod(0o755)
    assert message.startswith(f"StoreError: {folder}")
    assert message.count("\n") == 0
    assert "another place" in message


def as_nobody(work: Callable[[], None]) -> str:
    """The error of a process without root's rights, which may write everywhere."""
    there, here = os.pipe()
    if os.fork() == 0:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        try:
            work()
        except BaseException as error:  # nothing may leave this process but a line
            os.write(here, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(here)
    os.wait()
    with os.fdopen(there) as pipe:
        return pipe.read()


@pytest.mark.slow  # seven commands of DVC
def test_results_and_dvc_files_share_one_bucket_as_the_readme_says(s3: str, tmp_path: Path) -> None:
    store = Store("s3://trilemma/store")
    made = make(tmp_path / "first" / "out")
    store.put(KEY, made)
    address = "s3://trilemma/store"
    base = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1", "TRILEMMA_STORE": address}

    def dvc(folder: Path, *arguments: str) -> None:
        command = ["dvc", *arguments]
        environment = base | {"DVC_SITE_CACHE_DIR": str(folder / "site")}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    for name in ("first", "second"):
        (tmp_path / name).mkdir(exist_ok=True)
        dvc(tmp_path / name, "init", "--no-scm", "--quiet")
        dvc(tmp_path / name, "remote", "add", "--local", "--default", "--force", "shared", f"{address}/dvc")
    dvc(tmp_path / "first", "add", "--quiet", "out")
    dvc(tmp_path / "first", "push", "--quiet")
    (tmp_path / "second" / "out.dvc").write_bytes((tmp_path / "first" / "out.dvc").read_bytes())
    dvc(tmp_path / "second", "pull", "--quiet")
    fetched = store.fetch(KEY, tmp_path / "third")
    assert fetched is not None
    for folder in (tmp_path / "second" / "out", fetched.path):
        assert (folder / "weights.safetensors").read_bytes() == b"weights"
