"""Secrets of the environment are not printed or stored; code in a study's file is not run."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.toy_study import PARAMS, ToyStudy

PLANTED: dict[str, Any] = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-9f2c",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-9f2c",
    "RAY_AUTH_TOKEN": "planted-ray-9f2c",
    "PGPASSWORD": "planted-postgres-9f2c",
}


@pytest.fixture
def toy(tmp_path: Path) -> ToyStudy:
    return ToyStudy.build(tmp_path / "house")


def test_a_stage_prints_and_stores_no_secret_of_its_environment(toy: ToyStudy) -> None:
    child = toy.run("prepare", "digits", **PLANTED)
    written = [path for path in toy.house.rglob("*") if path.is_file()]
    assert (toy.house / "mlflow.db") in written
    for content in [child.stdout.encode(), child.stderr.encode(), *(path.read_bytes() for path in written)]:
        assert b"planted" not in content


@pytest.mark.parametrize(
    "uri", ["http://me:planted-9f2c@127.0.0.1:9", "postgresql+psycopg2://me:planted-9f2c@127.0.0.1:9/mlflow"]
)
def test_a_tracker_that_is_away_is_one_line_without_its_password(toy: ToyStudy, uri: str) -> None:
    child = toy.run("prepare", "digits", code=2, MLFLOW_TRACKING_URI=uri)
    assert child.stderr.splitlines()[-1].startswith("trilemma: ")
    assert "planted" not in child.stdout + child.stderr


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [executed]", "!!python/name:os.system"])
def test_a_study_file_cannot_execute_code(toy: ToyStudy, tag: str) -> None:
    (toy.folder / "params.yaml").write_text(f"{PARAMS}sweeps: {tag}\n")
    child = toy.run("prepare", "digits", code=2)
    (line,) = child.stderr.splitlines()
    assert "params.yaml" in line
    assert not (toy.folder / "executed").exists()
