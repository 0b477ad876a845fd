"""infra/README.md word for word: its blocks are run, on loopback."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.children import ROOT, wait_for
from tests.support.toy_study import ToyStudy, orphans

PORTS = (5000, 5432, 5555, 6379, 8265)  # those of the README, and of the S3 server


def block(heading: str) -> str:
    """The first shell block below it."""
    text = (ROOT / "infra" / "README.md").read_text().partition(f"\n## {heading}\n")[2]
    found = re.search(r"```bash\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def home() -> Iterator[Path]:
    """Short, for Postgres and Ray put sockets below it."""
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port}, which infra/README.md uses, is taken")
    home = Path(f"/tmp/tri-home-{os.getpid()}")
    home.mkdir()
    yield home
    shutil.rmtree(home, ignore_errors=True)


def follow(script: str, folder: Path, seconds: float, **environment: str) -> str:
    """Run it as people do, line by line; what it printed. Nothing that it started may outlive it."""
    child = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = child.communicate(timeout=seconds)
        assert child.returncode == 0, out
        assert wait_for(lambda: not orphans(child), 60)
        return out
    finally:
        for pid in orphans(child):
            psutil.Process(pid).kill()


@pytest.mark.ray
@pytest.mark.slow
def test_the_way_on_one_machine_works_word_for_word(home: Path, tmp_path: Path) -> None:
    toy = ToyStudy.build(tmp_path / "house")
    toy.call("git", "-C", str(toy.house), "init", "--quiet")
    toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
    environment = {name: value for name, value in toy.environment().items() if not name.startswith("RAY_")}
    out = follow(block("On one machine"), toy.folder, 900, **(environment | {"HOME": str(home)}))
    assert "repro: 2 ran" in out
    assert "succeeded" in out
    assert out.count("computed in") == 2  # there, and not here
    assert out.count("from the store") == 2
    assert "planted" not in out


@pytest.mark.slow
def test_mlflow_on_postgres_and_s3_works_word_for_word(home: Path) -> None:
    """As nobody special: Postgres refuses to run as root."""
    pytest.importorskip("moto.server")
    pytest.importorskip("boto3")
    pytest.importorskip("psycopg2")
    if shutil.which("initdb") is None:
        pytest.skip("no Postgres here")
    (home / "trilemma").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_", "PG"))},
        "HOME": str(home),
        "PGPASSWORD": "planted-9f2c",
        "AWS_ACCESS_KEY_ID": "planted-id",
        "AWS_SECRET_ACCESS_KEY": "planted-secret",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:5555",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    before = """
        python -m moto.server --host 127.0.0.1 --port 5555 > /dev/null 2>&1 & s3=$!
        until curl --silent --fail http://127.0.0.1:5555/moto-api/ > /dev/null; do sleep 0.2; done
        curl --silent --fail --request PUT http://127.0.0.1:5555/trilemma
        export TRILEMMA_STORE=s3://trilemma/store
    """
    after = """
        mlflow=$!
        until curl --silent --fail http://127.0.0.1:5000/health; do sleep 0.5; done
        python -c '
import mlflow
with mlflow.start_run():
    mlflow.log_metric("fd", 0.25)
    mlflow.log_text("here", "page.txt")
print("kept at", mlflow.last_active_run().info.artifact_uri)
'
        pg_ctl --pgdata $HOME/trilemma/postgres stop
        kill $mlflow $s3
    """
    script = before + block("Shared services").rstrip() + " &\n" + after
    if os.geteuid() == 0:
        shutil.chown(home, "nobody")
        shutil.chown(home / "trilemma", "nobody")
    files = "+dac_override,+dac_read_search"  # of root, in whose home Python may lie
    nobody = ["setpriv", "--reuid", "nobody", "--clear-groups", "--inh-caps", files, "--ambient-caps", files]
    user = [] if os.geteuid() else nobody
    out = follow(f"exec {' '.join(user)} bash -euo pipefail <<'END'\n{script}\nEND", home, 300, **environment)
    assert "kept at" in out
    assert "planted" not in out
