"""The page "Compare runs made elsewhere": its commands run as they stand there, on the table that stands there."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main as cli
from pipeline.tables.outside.verdicts import Row
from pipeline.tracking import backend

ROOT = Path(__file__).parents[2]
CODES = {0: 0, 1: 4, 2: 0, 3: 0, 4: 0, 5: 0}  # of the page's commands; others are of samples


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def write_runs(folder: Path, table: str) -> None:
    """As a CSV, as an export of Weights & Biases, and as an experiment in MLflow."""
    (folder / "runs.csv").write_text(table)
    rows = list(csv.DictReader(table.splitlines()))
    lines = [f"run,finished,{row['method']},{row['seed']},{row['fid']}" for row in rows]
    (folder / "export.csv").write_text("\n".join(["Name,State,method,seed,fid", *lines]))
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    backend.create_missing_database(uri)
    client = backend.mlflow_client(uri)
    home = client.create_experiment("papers", artifact_location=str(folder / "artifacts"))
    for row in rows:
        run = client.create_run(home, tags={"method": row["method"], "seed": row["seed"]}).info.run_id
        client.log_metric(run, "eval/fid", float(row["fid"]))
        client.set_terminated(run)


def write_pictures(folder: Path, darkest: int, seed: int) -> None:
    folder.mkdir()
    for i, picture in enumerate(np.random.default_rng(seed).integers(darkest, 256, (40, 4, 4), np.uint8)):
        Image.fromarray(picture).save(folder / f"{i}.png")


def test_every_command_of_the_page_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs/compare-runs.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRILEMMA_WEIGHTS", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (table,), (output,) = blocks(page, "csv"), blocks(page, "text")
    write_runs(tmp_path, table)
    for seed, (name, darkest) in enumerate({"a": 0, "a2": 0, "b": 90, "b2": 90, "real": 0}.items()):
        write_pictures(tmp_path / name, darkest, seed)
    commands = "".join(blocks(page, "bash")).splitlines()
    assert len(commands) == 8
    for number, command in enumerate(commands):
        monkeypatch.setattr("sys.argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert ended.value.code == CODES.get(number, ended.value.code), printed.err
        assert ended.value.code in (0, 3, 4), printed.err
        if number == 0:
            assert printed.out == output


def test_the_files_for_programs_name_what_exists() -> None:
    for name in ("AGENTS.md", "llms.txt"):
        text = (ROOT / name).read_text()
        for file in re.findall(r"[\w/-]+\.md", text):
            assert (ROOT / file).is_file(), f"{name}: {file}"
    described = (ROOT / "AGENTS.md").read_text()
    assert not [field for field in Row._fields if f"`{field}`" not in described]
