"""Secrets of the environment are not printed or stored; code in a study's file is not run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main as cli
from pipeline.cli.display import print_sweeps, print_why
from pipeline.cli.measure_table import print_checks
from pipeline.config.study import Study, load_study
from pipeline.console import redacted, say
from pipeline.errors import UserError
from pipeline.metrics.features.weights import Check
from pipeline.store.open import open_store
from pipeline.tracking.backend import tracking_uri
from pipeline.tracking.mlflow_run import Run, RunSpec
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


ADDRESSES = [
    "http://me:planted@tracker:5000",
    "http://me:pl/anted#planted?planted@tracker:5000",
    "http://me:it's@planted@tracker:5000/path",
    "postgresql://tracker/mlflow?user=me&password=planted",
    "postgresql://tracker/mlflow?sslmode=require&PASSWORD=planted",
    "s3://planted:planted@bucket/store?region=eu",
    "s3://bucket/store?access_key=planted&secret_key=planted",
    "https://account.blob/x?sv=1&sig=planted",
    "host=tracker password=planted dbname=mlflow",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_line_shows_the_credentials_of_an_address(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"MLflow at {address}: it went away; {address}")
    assert "planted" not in (line := capsys.readouterr().err)
    assert line.startswith("MLflow at ")
    assert line.count("it went away") == 1


@pytest.mark.parametrize(
    "text", ["s3://bucket/store?region=eu", "sqlite:////a/b.db?uri=true", "monkey=1 key: c0ffee", "mail me@host"]
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert redacted(text) == text


def test_a_tracker_that_goes_away_in_mid_training_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    class Gone:
        def set_tag(self, *_: Any) -> None:
            raise OSError("no answer from http://me:planted@tracker:5000/api?token=planted")

    run = Run(Gone(), RunSpec("http://me:planted@tracker:5000", "1"))  # type: ignore[arg-type]
    run.tag("name", "value")
    assert "no answer from http://tracker:5000/api" in (line := capsys.readouterr().err)
    assert "planted" not in line


def test_an_unexpected_error_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("postgresql://me:planted@tracker/mlflow")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert "RuntimeError: postgresql://tracker/mlflow" in (printed := capsys.readouterr().err)
    assert "planted" not in printed


@pytest.mark.parametrize("address", ["{}://me:planted@host/x", "{}://host/x?password=planted"])
@pytest.mark.parametrize(
    ("variable", "scheme", "use"),
    [
        ("MLFLOW_TRACKING_URI", "https", lambda study: tracking_uri(study.folder)),
        ("TRILEMMA_STORE", "s3", open_store),
    ],
)
def test_credentials_in_an_address_are_refused(
    variable: str,
    scheme: str,
    use: Callable[[Study], Any],
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "params.yaml").write_text("datasets: {}\n")
    monkeypatch.setenv(variable, address.format(scheme))
    study = load_study(tmp_path / "params.yaml")
    with pytest.raises(UserError, match=f"{variable} has credentials in it") as raised:
        use(study)
    assert "planted" not in str(raised.value)


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    say("a tensor named \x1b[31m\r\nred\x9b")
    assert capsys.readouterr().err == "a tensor named \\x1b[31m\\r\\nred\\x9b\n"
    print_checks([Check("[b]cnn", "verified", Path("\x1b[31mred"), None)], as_json=False)
    print_why({"cells": ["digits:\x1b[31mred/fd"]})
    print_sweeps([{"sweep": "\x1b[31mred", "axes": {}, "of": [], "needs": "\r", "table": "no", "seeds": 1}])
    tables = capsys.readouterr().out
    assert tables.count("\\x1b[31mred") == 3
    assert "[b]cnn" in tables
    assert not set(tables.replace("\n", "")) & {"\x1b", "\r"}
