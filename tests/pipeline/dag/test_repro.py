"""Stages in parallel under DVC's own rules, on a small study of shell commands."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from pipeline.config.study import load_study
from pipeline.dag.repro import is_read
from tests.support.children import ROOT, wait_for
from tests.support.toy_study import PARAMS, ToyStudy

STUDY = """\
stages:
  left:
    cmd: trilemma left right
    deps: [left.in]
    outs: [left.txt]
  right:
    cmd: trilemma right left
    deps: [right.in]
    outs: [right.txt]
  both:
    cmd: cat left.txt right.txt > both.txt
    deps: [left.txt, right.txt]
    outs: [both.txt]
  after-left:
    cmd: cp left.txt after-left.txt
    deps: [left.txt]
    outs: [after-left.txt]
"""
# The command `trilemma` of this study. meet: both stages must run at the same time; alone: only one may.
WORK = """\
#!/bin/sh
touch $1.here
case "$MODE" in
  meet) for i in $(seq 600); do [ -e $2.here ] && break; sleep 0.1; done; [ -e $2.here ] || exit 3;;
  alone) mkdir alone || exit 4; sleep 0.3; rmdir alone;;
  fail) [ $1 = right ] && { echo "trilemma: first line" >&2; echo "trilemma: no such picture" >&2; exit 2; };;
  stay) exec sleep 600;;
esac
cut -c1 $1.in > $1.txt
"""


@dataclass(frozen=True)
class ShellStudy:
    folder: Path

    @classmethod
    def build(cls, folder: Path) -> "ShellStudy":
        folder.mkdir()
        files = {"params.yaml": "root: .\ndatasets: {}\n", "dvc.yaml": STUDY, "left.in": "1", "right.in": "1"}
        for name, text in (files | {"trilemma": WORK}).items():
            (folder / name).write_text(text)
        (folder / "trilemma").chmod(0o755)
        study = cls(folder)
        assert study.wait(study.start("-m", "dvc", "init", "--no-scm", "--quiet"))[0] == 0
        return study

    def start(self, *command: str, mode: str = "") -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("TRILEMMA_")},
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "DVC_NO_ANALYTICS": "1",
                "DVC_SITE_CACHE_DIR": str(self.folder / ".site"),
                "MODE": mode,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores Ctrl-C
        )

    def start_repro(self, *arguments: str, mode: str = "") -> "subprocess.Popen[str]":
        return self.start("-m", "pipeline.cli.main", "repro", *arguments, mode=mode)

    def repro(self, *arguments: str, mode: str = "") -> tuple[int, str, str]:
        return self.wait(self.start_repro(*arguments, mode=mode))

    def lock(self) -> object:
        return YAML(typ="safe", pure=True).load(self.folder / "dvc.lock")  # the order of stages varies in DVC itself

    def wait(self, child: "subprocess.Popen[str]") -> tuple[int, str, str]:
        out, err = child.communicate(timeout=120)
        return child.returncode, out, err


@pytest.fixture
def study(tmp_path: Path) -> ShellStudy:
    return ShellStudy.build(tmp_path / "study")


def test_independent_stages_run_in_parallel_and_leave_a_serial_runs_lock(study: ShellStudy, tmp_path: Path) -> None:
    serial = ShellStudy.build(tmp_path / "serial")
    assert serial.wait(serial.start("-m", "dvc", "repro"))[0] == 0
    code, out, err = study.repro("--jobs", "2", mode="meet")
    assert code == 0, out + err
    assert "repro: 4 ran; " in err
    lines = [line.partition(" done in ")[0] for line in out.splitlines() if line.startswith("left | ")]
    assert lines == ["left | > trilemma left right", "left |"]  # one as it starts, one as it ends
    assert study.lock() == serial.lock()
    (study.folder / "right.in").write_text("1, still")
    code, out, err = study.repro("both", "--jobs", "2")
    assert code == 0
    assert "repro: 1 ran, 2 unchanged; " in err  # right makes the same bytes again, so nothing follows
    (study.folder / "left.in").write_text("2")
    code, out, err = study.repro("after-left", "--jobs", "2")
    assert code == 0
    assert "repro: 2 ran; " in err
    assert (study.folder / "after-left.txt").read_text() == "2\n"


def test_a_failure_stops_only_what_needs_it_and_the_summary_lists_it(study: ShellStudy) -> None:
    code, _, err = study.repro("--jobs", "2", mode="fail")
    assert code == 1
    assert "repro: 2 ran, 1 failed, 1 not run; " in err
    assert "  failed: right: trilemma: no such picture" in err
    assert "  not run: both, which needs right" in err
    assert err.splitlines()[-1] == "trilemma: 1 of 4 stages failed: right"
    assert (study.folder / "after-left.txt").exists()


@pytest.mark.parametrize(
    ("sent", "shell"), [(signal.SIGINT, "/bin/bash"), (signal.SIGTERM, "/bin/sh")], ids=["ctrl-c", "sigterm"]
)
def test_a_stopped_run_stops_its_stages_and_continues_later(
    study: ShellStudy, sent: signal.Signals, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", shell)  # DVC's: bash becomes its command, dash stays above it
    child = study.start_repro("--jobs", "2", mode="stay")
    assert wait_for(lambda: all((study.folder / f"{name}.here").exists() for name in ("left", "right")), 60)
    started = psutil.Process(child.pid).children(recursive=True)
    assert len(started) >= 2
    child.send_signal(sent)
    code, _, err = study.wait(child)
    assert code == 128 + sent
    assert "2 failed, 2 not run" in err
    assert not [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert json.loads((study.folder / ".dvc/tmp/rwlock").read_text()) == {}
    assert study.repro("left")[0] == 0


def test_stages_that_do_not_fit_into_memory_together_run_one_after_the_other(study: ShellStudy) -> None:
    ledger = study.folder / ".trilemma" / "store" / "ledger"
    ledger.mkdir(parents=True)
    for stage, name in (("left", "right"), ("right", "left")):  # the words of their commands
        cost = {"seconds": 1.0, "peak_memory_mib": 10**9}
        note = {"event": "computed", "time": "2026", "stage": stage, "name": name} | cost
        (ledger / f"{stage}.jsonl").write_text(json.dumps(note) + "\n")
    code, out, err = study.repro("both", "--jobs", "2", mode="alone")
    assert code == 0, out + err


def test_the_stage_with_the_longest_chain_is_started_first(study: ShellStudy) -> None:
    tables = study.folder / "reports" / "tables"
    tables.mkdir(parents=True)
    for longer, shorter in (("left", "right"), ("right", "left")):
        rows = f"{longer} {shorter},9,1\n{shorter} {longer},1,1\n"
        (tables / "cost.csv").write_text(f"stage,name,seconds,peak_memory_mib\n{rows}".replace(" ", ","))
        (study.folder / "left.in").write_text(longer)
        (study.folder / "right.in").write_text(longer)
        code, out, err = study.repro()
        assert code == 0, out + err
        assert out.index(f"{longer} | > ") < out.index(f"{shorter} | > ")


def test_a_command_that_cannot_run_raises_an_error_of_one_line(study: ShellStudy) -> None:
    code, _, err = study.repro("--address", "auto")
    assert code == 2
    assert err == "trilemma: the cluster at auto was given but no workers: say how many with --workers\n"
    code, _, err = study.repro("nothing")
    assert code == 2
    assert err.startswith("trilemma: DVC: ")
    assert "nothing" in err
    assert len(err.splitlines()) == 1


def test_fakes_and_training_of_a_guide_that_no_entry_uses_are_left_out(tmp_path: Path) -> None:
    unused = PARAMS.replace("guides: [{guide: cg-digits, scale: 1.0}, {guide: dg-trunk, weight: 1.0}]", "guides: []")
    (tmp_path / "params.yaml").write_text(unused.replace("../..", str(ROOT)))
    study = load_study(tmp_path / "params.yaml")
    commands = ["generate dg-toy", "discriminate dg-trunk", "generate dg-trunk", "pretrain dg-trunk", "report"]
    assert [is_read(f"trilemma {command}", study) for command in commands] == [True, False, False, True, True]


@pytest.mark.slow
def test_dvc_repro_gives_the_artifacts_and_the_lock_of_trilemma_repro(reproduced: ToyStudy, tmp_path: Path) -> None:
    toy = ToyStudy.build(tmp_path / "house")
    toy.call("git", "-C", str(toy.house), "init", "--quiet")
    toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
    toy.call("dvc", "repro")
    assert toy.digests() == reproduced.digests()
    outs = {name: stage.get("outs") for name, stage in toy.lock().items() if "reports/" not in str(stage["outs"])}
    assert outs == {name: stage.get("outs") for name, stage in reproduced.lock().items() if name in outs}
    assert toy.left_behind() == []
