"""A house of its own with a fresh copy of this repository's code and a study on few digits, run by real commands.

The study lies where studies lie, `studies/toy` with a link to the house's dvc.yaml. Store, tracker and outs are kept in
the house, so nothing that happens there touches the repository.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from pipeline.data.artifacts import read_artifact

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PARAMS = """\
root: ../..
datasets:
  digits: {source: digits, options: {}, features: {epochs: 2}, fakes: 200, evaluate: {images: 96, sample_seeds: 2}}
runs:
  toy:
    dataset: digits
    method: edm.EDM
    model: {net: mlp, width: 16, depth: 1, lr: 2.0e-3, lr_rampup_images: 1000}
    train: {steps: 240, batch: 32}
    sample: {steps: 3}
classifiers:
  cg-digits:
    dataset: digits
    method: classifier_guidance.Classifier
    model: {net: mlp, width: 16, depth: 1, steps: 50}
    train: {steps: 60, batch: 32, check_every: 40}
guides:
  dg-toy:
    run: toy
    method: discriminator_guidance.Discriminator
    model: {body: mlp, width: 16, depth: 1}
    train: {steps: 240, batch: 32, check_every: 40, patience: 100}
  dg-trunk:
    run: toy
    trunk: cg-digits
    method: discriminator_guidance.Discriminator
    model: {body: head, width: 16, depth: 1}
    train: {steps: 60, batch: 32, check_every: 40}
guided:
  toy-dg:
    run: toy
    guides: [{guide: dg-toy, weight: 1.0}]
    sample: {}
  toy-cg-dg:
    run: toy
    guides: [{guide: cg-digits, scale: 1.0}, {guide: dg-trunk, weight: 1.0}]
    sample: {}
translations:
  blocky: {guided: toy-dg, starts: [0.1, 5.0], images: 70, sets: 2}
"""
NOT_INHERITED = (
    "TRILEMMA_STORE", "TRILEMMA_WORKERS", "TRILEMMA_ADDRESS", "TRILEMMA_TRACEBACK",
    "MLFLOW_TRACKING_URI", "DVC_STAGE", "PYTHONDONTWRITEBYTECODE",
)  # fmt: skip


@dataclass(frozen=True)
class ToyStudy:
    house: Path

    @classmethod
    def build(cls, house: Path) -> "ToyStudy":
        toy = cls(house)
        toy.folder.mkdir(parents=True)
        for name in ("methods", "pipeline"):
            shutil.copytree(ROOT / name, house / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("params.yaml", "dvc.yaml", ".dvcignore"):
            shutil.copy(ROOT / name, house / name)
        for name in ("papers", "measured"):
            shutil.copytree(ROOT / "reports" / name, house / "reports" / name)
        (toy.folder / "params.yaml").write_text(PARAMS)
        (toy.folder / "dvc.yaml").symlink_to("../../dvc.yaml")
        return toy

    def copied(self, house: Path, *stages: str) -> "ToyStudy":
        """Another house, in which only these stages were run; its store and tracker are empty."""
        copy = ToyStudy.build(house)
        for stage in stages:
            shutil.copytree(self.out / stage, copy.out / stage)
        return copy

    def with_store(self, house: Path) -> "ToyStudy":
        """Another house with all that this one has computed; its tracker is empty."""
        copy = ToyStudy.build(house)
        for path in (self.store, self.out, self.folder / "reports"):
            if path.exists():
                shutil.copytree(path, copy.house / path.relative_to(self.house))
        return copy

    @property
    def folder(self) -> Path:
        return self.house / "studies" / "toy"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def store(self) -> Path:
        return self.house / ".trilemma" / "store"

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        return inherited | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.house),
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.house / "dvc-site"),
        }

    def start(self, *arguments: str, before: str = "", **environment: str) -> "subprocess.Popen[str]":
        """`trilemma *arguments` in the study's folder and a session of its own; `before`: Python that runs first."""
        code = f"{before}\nfrom pipeline.cli.main import main\nmain()"
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=self.folder,
            env=self.environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *arguments: str, code: int = 0, before: str = "", **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """As `start`, waited for; it must end with exit code `code`."""
        return _finished(self.start(*arguments, before=before, **environment), code)

    def call(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Any program that is there beside trilemma, such as dvc; it must succeed."""
        child = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return _finished(child, 0)

    def digest(self, stage: str, name: str) -> str:
        return read_artifact(self.out / stage / name).digest

    def digests(self) -> dict[str, str]:
        """By "stage/name", of everything under out."""
        found = sorted(path.parent for path in self.out.glob("*/[!.]*/manifest.json"))
        return {path.relative_to(self.out).as_posix(): read_artifact(path).digest for path in found}

    def lock(self) -> dict[str, Any]:
        """What DVC keeps of every stage; their order in the file means nothing."""
        return YAML(typ="safe", pure=True).load(self.folder / "dvc.lock")["stages"]

    def tracked(self) -> list[tuple[str, str]]:
        """(name, status) of every MLflow run, oldest first."""
        with closing(sqlite3.connect(self.house / "mlflow.db")) as database:
            return list(database.execute("SELECT name, status FROM runs ORDER BY start_time"))

    def events(self) -> list[dict[str, object]]:
        """Every line of the ledger, oldest first within a key."""
        files = sorted((self.store / "ledger").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def left_behind(self) -> list[Path]:
        """Training state, leases and temporary files: there must be none when nothing runs."""
        kept = [path for folder in ("state", "leases") for path in (self.store / folder).glob("*")]
        makers = (self.store, self.out, self.folder / "reports")
        hidden = [path for maker in makers for path in maker.rglob(".*") if path.name not in (".gitignore", ".guard")]
        return sorted([*kept, *hidden])


def orphans(child: "subprocess.Popen[str]") -> list[int]:
    """Processes that `child` left, by the session it began."""
    found = []
    for pid in psutil.pids():
        try:
            if pid != child.pid and os.getsid(pid) == child.pid and psutil.Process(pid).status() != "zombie":
                found.append(pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _finished(child: "subprocess.Popen[str]", code: int) -> "subprocess.CompletedProcess[str]":
    out, err = child.communicate(timeout=600)
    assert child.returncode == code, f"exit code {child.returncode}\n{out}\n{err}"
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)
