"""The command line: a user's mistake is one line, with exit code 2, before anything is written."""

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app, main
from pipeline.config.study import load_study
from pipeline.dag.graph import STAGES
from tests.support.toy_study import NOT_INHERITED, PARAMS, ToyStudy

ErrorLine = Callable[..., str]


@pytest.fixture
def study(tmp_path: Path) -> ToyStudy:
    """One in which nothing was run."""
    return ToyStudy.build(tmp_path / "house")


@pytest.fixture(autouse=True)
def _as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that run in this process see none of its environment, and leave its signals alone."""
    for name in NOT_INHERITED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pipeline.dag.run.on_sigterm", lambda: None)


@pytest.fixture
def error_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> ErrorLine:
    """`trilemma *arguments` in a folder, in this process; the line it ends with, which must be the only one."""

    def run(folder: Path, *arguments: str) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("pipeline.dag.run.CODE", folder.parents[1])  # as if it were this
        monkeypatch.setattr(sys, "argv", ["trilemma", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == 2, printed
        assert printed.out == ""
        assert printed.err.startswith("trilemma: ")
        assert printed.err.count("\n") == 1, printed.err
        return printed.err

    return run


def written(study: ToyStudy) -> set[str]:
    """Everything in the house but its code, and but empty folders."""
    files = [path for path in study.house.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(study.house).as_posix() for path in files}


@pytest.mark.parametrize(
    ("was", "becomes", "command", "wanted"),
    [
        ("steps: 240, batch: 32}", "stepz: 240}", "pretrain toy", "unknown key 'stepz' (did you mean 'steps'?)"),
        ("steps: 240, batch: 32}", "steps: many}", "pretrain toy", r"steps: 'many' does not fit"),
        ("steps: 240, batch: 32}", "steps: 1.5}", "pretrain toy", r"steps: 1.5 does not fit"),
        ("steps: 240, batch: 32}", "steps: 0}", "pretrain toy", "train.steps: 0 does not fit"),
        ("width: 16, depth: 1, lr: 2.0e-3", "width: 16, rate: 1", "pretrain toy", "unknown key 'rate'"),
        ("net: mlp, ", "net: mlpp, ", "pretrain toy", "net: 'mlpp' does not fit"),
        ("lr: 2.0e-3", "lr: -2.0e-3", "pretrain toy", "lr"),
        ("dataset: digits\n", "dataset: faces\n", "pretrain toy", "no dataset named 'faces'"),
        ("edm.EDM", "emd.EDM", "pretrain toy", "no methods/emd.py (did you mean 'edm'?)"),
        ("edm.EDM", "edm.EMD", "pretrain toy", "no class 'EMD' in methods/edm.py"),
        (
            "source: digits",
            "source: digit",
            "prepare digits",
            "no pipeline/data/datasets/digit.py (did you mean 'digits'?)",
        ),
        ("options: {}", "options: {size: 9}", "prepare digits", "unknown key 'size'"),
        ("runs:", "runz:", "pretrain toy", "unknown key 'runz' (did you mean 'runs'?)"),
        ("runs:", "runs", "pretrain toy", "is not YAML"),
        ("sample: {steps: 3}", "sample: {steps: 0}", "generate dg-toy", "steps"),
        ("sample: {steps: 3}", "sample: {step: 3}", "generate dg-toy", "unknown key 'step' (did you mean 'steps'?)"),
        ("images: 96", "imagez: 96", "prepare digits", "unknown key 'imagez' (did you mean 'images'?)"),
        ("weight: 1.0", "wieght: 1.0", "sample toy-dg", "unknown key 'wieght' (did you mean 'weight'?)"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_written(
    was: str, becomes: str, command: str, wanted: str, reproduced: ToyStudy, tmp_path: Path, error_line: ErrorLine
) -> None:
    study = reproduced.copied(tmp_path / "house", "prepare", "pretrain", "discriminate")
    shutil.rmtree(study.out / command.split()[0], ignore_errors=True)
    assert was in PARAMS
    (study.folder / "params.yaml").write_text(PARAMS.replace(was, becomes, 1))
    before = written(study)
    assert wanted in error_line(study.folder, *command.split())
    assert not {path for path in written(study) - before if not path.startswith((".trilemma/", "ml"))}
    assert study.left_behind() == []


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("pretrain toi", "no run named 'toi' in params.yaml (did you mean 'toy'?); it has toy"),
        ("sample toy-dj", "no run or guided entry named 'toy-dj' in params.yaml (did you mean 'toy-dg'?)"),
        ("discriminate toy", "no guide named 'toy'"),
        ("prepare digit", "no dataset named 'digit' in params.yaml (did you mean 'digits'?)"),
        ("values digit", "no dataset named 'digit'"),
        ("pretrain toy", "out/prepare/digits: does not exist: run the stage that makes it (dvc repro) first"),
        ("values digits", "does not exist: run the stage that makes it (dvc repro) first"),
        ("report", "dvc repro"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_names_that_exist(
    command: str, wanted: str, study: ToyStudy, error_line: ErrorLine
) -> None:
    before = written(study)
    assert wanted in error_line(study.folder, *command.split())
    assert written(study) == before


def test_too_many_workers_are_one_line(reproduced: ToyStudy, tmp_path: Path, error_line: ErrorLine) -> None:
    study = reproduced.copied(tmp_path / "house", "prepare")
    assert "workers" in error_line(study.folder, "pretrain", "toy", "--workers", "1000")
    assert not (study.out / "pretrain").exists()


def test_an_option_out_of_bounds_is_refused_by_the_parser(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["pretrain", "toy", "--workers", "-1"])
    assert result.exit_code == 2
    assert "--workers" in result.output


def test_a_folder_without_a_study_is_one_line(tmp_path: Path, error_line: ErrorLine) -> None:
    for command in ("pretrain toy", "values digits", "report", "runs", "runs --json"):
        assert "params.yaml: run this in a study's folder" in error_line(tmp_path, *command.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "wanted"),
    [
        ("changed", r"its SHA-256 differs from the manifest's: remove .* and run prepare digits again"),
        ("cut", r"bytes, the manifest lists \d+: remove .* and run prepare digits again"),
        ("lost", r"missing, but the manifest lists it: remove .* and run prepare digits again"),
        ("half-written", r"holds no manifest.json, so it is incomplete"),
        ("not a manifest", r"not a manifest"),
    ],
)
def test_a_damaged_input_is_never_used(
    damage: str, wanted: str, reproduced: ToyStudy, tmp_path: Path, error_line: ErrorLine
) -> None:
    study = reproduced.copied(tmp_path / "house", "prepare")
    folder = study.out / "prepare" / "digits"
    file = next(folder.rglob("*.arrow"))
    match damage:
        case "changed":
            file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
        case "cut":
            file.write_bytes(file.read_bytes()[:-1])
        case "lost":
            file.unlink()
        case "half-written":
            (folder / "manifest.json").unlink()
        case "not a manifest":
            (folder / "manifest.json").write_text("{")
    assert re.search(wanted, error_line(study.folder, "pretrain", "toy"))
    assert not (study.out / "pretrain").exists()


@pytest.mark.parametrize("rate", ["1e-4", "1.0e-4", "1E-4", "0.0001"])
def test_a_rate_may_be_written_either_way(rate: str, study: ToyStudy) -> None:
    (study.folder / "params.yaml").write_text(PARAMS.replace("lr: 2.0e-3", f"lr: {rate}"))
    assert load_study(study.folder / "params.yaml").runs["toy"].model["lr"] == 0.0001


def test_code_other_than_the_study_s_computes_nothing_for_it(study: ToyStudy, tmp_path: Path) -> None:
    other = ToyStudy.build(tmp_path / "other")
    child = study.run("prepare", "digits", code=2, PYTHONPATH=str(other.house))
    assert child.stderr.startswith(f"trilemma: this trilemma runs the code in {other.house}, and the study's is in")
    assert child.stderr.count("\n") == 1
    assert not study.out.exists()


def test_a_stage_runs_without_git(study: ToyStudy, tmp_path: Path) -> None:
    study.run("prepare", "digits", PATH=str(tmp_path))
    assert {event["commit"] for event in study.events()} == {None}
    assert study.tracked() == [("prepare digits", "FINISHED")]


def test_a_full_disk_is_one_line_and_nothing_half_written(study: ToyStudy) -> None:
    small = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))"
    child = study.run("prepare", "digits", code=2, before=small)
    assert child.stderr.startswith("trilemma: ")
    assert child.stderr.count("\n") == 1
    assert not study.out.exists()
    assert not (study.house / "mlflow.db").exists()
    assert study.left_behind() == []


def test_a_busy_port_is_one_line(study: ToyStudy, error_line: ErrorLine) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert f"port {port}" in error_line(study.folder, "ui", "--port", str(port))
    assert not (study.house / "mlflow.db").exists()


def test_help_lists_first_what_a_newcomer_needs_and_is_quick() -> None:
    costs, text = [], ""
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        text = subprocess.run(
            [Path(sys.executable).parent / "trilemma", "--help"],
            env=os.environ | {"TERM": "dumb"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    commands = re.findall(r"^[│|] ([a-z][\w-]*)", text, re.MULTILINE)
    assert commands[:9] == ["repro", "report", "runs", "sweep", "compare", "why", "draw", "measure", "ui"]
    assert commands[9 : 10 + len(STAGES)] == ["check", *STAGES]
    assert {"values", "table", "stack-table", "plan", "sweeps", "replay", "submit", "import", "weights"} < set(commands)
    assert min(costs) < 0.5
