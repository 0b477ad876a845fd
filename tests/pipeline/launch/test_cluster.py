"""On a cluster that does not see our disk, and whose parts die: the artifacts of the serial run, everything once."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import psutil
import pytest

from pipeline.store.store import State
from pipeline.training.loop import RECORD_EVERY
from tests.support.children import start, wait_for
from tests.support.toy_study import BIN, ToyStudy

pytest.importorskip("moto.server")
pytest.importorskip("boto3")
pytest.importorskip("psycopg2")
from tests.support.cluster import BUCKET, NODES, Cluster, cluster, family

TRAININGS = {"pretrain@toy": "pretrain/toy", "classify@cg-digits": "classify/cg-digits"}
# At the end of `pipeline/training/loop.py`: a line for every row of the history that is begun, none of which takes less
# than 100 ms, and a checkpoint after each.
SLOWLY = """

import os
CHECKPOINT_SECONDS = 0.0
_resumed, _average, _key = Checkpoint.resume, _averaged, []

def _resume(checkpoint, training, device):
    _key[:] = [checkpoint.state.key]
    return _resumed(checkpoint, training, device)

Checkpoint.resume = _resume

def _averaged(window, step):
    assert not {hides} or not os.path.exists({house!r} + "/params.yaml"), "the driver's disk is seen"
    with open({log!r}, "a") as file:
        file.write(f"{{_key[0]}} {{os.getpid()}} {{step}}\\n")
    time.sleep(0.1)
    return _average(window, step)
"""
METRICS = """
    SELECT runs.name, metrics.key, metrics.step, metrics.value FROM metrics JOIN runs USING (run_uuid)
    WHERE runs.status = 'FINISHED' AND metrics.key NOT LIKE 'cost/%' AND runs.start_time >= {began}
"""


@pytest.fixture(scope="module")
def here() -> Iterator[Cluster]:
    with cluster() as found:
        yield found


@dataclass
class Study:
    """The toy study, run on a cluster by the command that is repeated until it succeeds."""

    toy: ToyStudy
    here: Cluster
    targets: Sequence[str]
    began: int  # milliseconds since the epoch
    child: "subprocess.Popen[bytes] | None" = None
    commands: int = 0

    @classmethod
    def build(cls, here: Cluster, name: str, *targets: str) -> "Study":
        toy = ToyStudy.build(here.disk / name)
        toy.call("git", "-C", str(toy.house), "init", "--quiet")
        toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
        study = cls(toy, here, targets, int(time.time() * 1000))
        with (toy.house / "pipeline" / "training" / "loop.py").open("a") as code:
            code.write(SLOWLY.format(log=str(study.log), house=str(toy.house), hides=here.hides))
        return study

    @property
    def log(self) -> Path:
        return self.here.folder / f"rows-{self.toy.house.name}"

    @property
    def store(self) -> str:
        return f"store-{self.toy.house.name}"

    def rows(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def start(self) -> None:
        command = [BIN / "trilemma", "repro", *self.targets, "--jobs", "2", "--workers", "1"]
        command += ["--address", self.here.address]
        told = {"TRILEMMA_STORE": f"s3://{BUCKET}/{self.store}", "TMPDIR": str(self.here.disk)}
        self.commands += 1
        with (self.toy.house / "out.log").open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=self.toy.folder,
                env=self.toy.environment() | self.here.environment | told,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def runs(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def is_done(self) -> bool:
        return self.child is not None and self.child.poll() == 0

    def output(self) -> str:
        return (self.toy.house / "out.log").read_text()

    def finish(self, at_most: int) -> None:
        """The same command, until it succeeds."""
        while not self.is_done():
            if not self.runs():
                assert self.commands < at_most, self.output()
                self.start()
            assert self.child is not None
            self.child.wait(1200)

    def strike(self, kind: str, moment: random.Random) -> bool:
        """Whether there was something to strike."""
        if kind in ("worker", "driver"):
            found = self.here.workers()
            if kind == "driver" and self.child is not None and self.runs():  # the whole run, or one stage
                whole = moment.random() < 0.5
                found = [process for process in family(self.child) if os.getsid(process.pid) == process.pid]
                found = [psutil.Process(self.child.pid)] if whole else found
            with suppress(psutil.NoSuchProcess, IndexError):
                moment.choice(found).send_signal(signal.SIGKILL)
                return True
            return False
        if kind == "raylet":
            self.here.replace_raylet(moment.choice(NODES))
        elif kind == "postgres":
            self.here.restart_postgres()
        else:
            self.here.lose_s3(20)
        return True


def assert_whole(study: Study, serial: ToyStudy) -> None:
    """Everything is there once, as the serial run has it, and nothing is left."""
    toy, here = study.toy, study.here
    wanted = serial.digests()
    assert toy.digests() == {name: wanted[name] for name in toy.digests()}
    assert {TRAININGS[target] for target in study.targets if target in TRAININGS} <= toy.digests().keys()
    assert here.objects(f"{study.store}/state/") == here.objects(f"{study.store}/leases/") == []
    runs = here.select(
        "SELECT runs.name, runs.status, tags.value FROM runs LEFT JOIN tags ON tags.run_uuid = runs.run_uuid AND "
        "tags.key = 'key' WHERE start_time >= %s",
        study.began,
    )
    assert "RUNNING" not in {status for _, status, _ in runs}
    ledger = defaultdict(list)
    for name in here.objects(f"{study.store}/ledger/"):
        note = json.loads(here.read(name))
        ledger[name.split("/")[2].removesuffix(".jsonl")].append(note["event"])
    computed = {key for key, events in ledger.items() if "computed" in events}
    tidied = {key for key, events in ledger.items() if "tidied" in events}
    kept = [run for run in runs if run[0] != "report"]  # which is made every time
    finished = sorted(key for _, status, key in kept if status == "FINISHED")
    assert len(set(finished)) == len(finished)
    assert computed <= set(finished) <= computed | tidied
    with closing(sqlite3.connect(serial.house / "mlflow.db")) as database:
        theirs = set(database.execute(METRICS.format(began=0)))
    names = {name for name, status, _ in runs if status == "FINISHED"}
    ours = set(here.select(METRICS.format(began=study.began).replace("%", "%%")))
    assert ours == {row for row in theirs if row[0] in names}


def repeated_steps(rows: Sequence[str]) -> list[int]:
    """Of every training that went on from a checkpoint: steps taken once more."""
    furthest, seen, repeated = dict[str, int](), set[tuple[str, str]](), []
    for key, pid, step in (row.split() for row in rows):
        if (key, pid) not in seen and key in furthest:
            repeated.append(furthest[key] - (int(step) - RECORD_EVERY))
        seen.add((key, pid))
        furthest[key] = max(furthest.get(key, 0), int(step))
    return repeated


def test_training_state_is_saved_after_fifteen_seconds_without_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow itself gives up after six."""
    lonely = Cluster(tmp_path, tmp_path)
    for name, value in lonely.environment.items():
        monkeypatch.setenv(name, value)
    lonely.s3.start()
    lonely.bucket.create_bucket(Bucket=BUCKET)
    state = State(f"s3://{BUCKET}/store", "ab" * 32)
    state.save("training.pt", b"before")
    away = Thread(target=lonely.lose_s3, args=(15,))
    away.start()
    state.save("training.pt", b"after")
    away.join()
    assert state.load("training.pt") == b"after"
    lonely.s3.stop()


@pytest.mark.ray
@pytest.mark.parametrize(
    ("targets", "strikes"),  # each once that many rows of histories were begun
    [
        (["pretrain@toy"], {"postgres": 3}),
        pytest.param([*TRAININGS], {"worker": 3, "postgres": 6, "driver": 8}, marks=pytest.mark.slow),
    ],
    ids=["one", "two side by side"],
)
def test_trainings_whose_surroundings_die_end_as_the_serial_run(
    targets: Sequence[str], strikes: Mapping[str, int], here: Cluster, reproduced: ToyStudy
) -> None:
    study, moment = Study.build(here, f"struck-{len(targets)}", *targets), random.Random(0)
    for kind, rows in strikes.items():

        def is_due(rows: int = rows) -> bool:
            if not study.runs():
                study.start()
            return len(study.rows()) >= rows and bool(here.workers())

        assert wait_for(is_due, 600), study.output()
        assert study.strike(kind, moment)
    study.finish(at_most=len(strikes) + 2)
    assert_whole(study, reproduced)
    assert max(repeated_steps(study.rows()), default=0) <= RECORD_EVERY


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    "call", ["list(launch.map(time.sleep, [1000]))", "launch.fit(step_for_ever)"], ids=["map", "fit"]
)
def test_a_driver_ends_when_the_head_is_replaced(call: str, here: Cluster) -> None:
    code = f"""
    import sys, time
    from pipeline.launch.launcher import launcher
    from tests.pipeline.launch.test_launch import step_for_ever
    with launcher(1, sys.argv[1]) as launch:
        print("joined", flush=True)
        {call}
    """
    driver = start(code, here.address, **here.environment)
    assert wait_for(here.workers, 120)
    here.replace_raylet(NODES[0])
    assert driver.wait(120) != 0


@pytest.mark.ray
@pytest.mark.slow
def test_the_whole_study_on_a_cluster_has_the_artifacts_of_the_serial_run(here: Cluster, reproduced: ToyStudy) -> None:
    study = Study.build(here, "whole")
    study.finish(at_most=1)
    assert study.toy.digests() == reproduced.digests()
    assert_whole(study, reproduced)


@pytest.mark.ray
@pytest.mark.slow
def test_whatever_dies_at_any_moment_the_same_command_ends_in_the_same_study(
    here: Cluster, reproduced: ToyStudy
) -> None:
    """20 strikes at random moments; a study that is done before they are over is followed by another one."""
    moment = random.Random(20)
    kinds = 4 * ["worker", "raylet", "driver", "postgres", "s3"]
    moment.shuffle(kinds)
    turn = 0
    while kinds:
        turn += 1
        study = Study.build(here, f"chaos-{turn}", "evaluate-guided@toy-dg", "classify@cg-digits")
        struck: list[str] = []
        due = time.monotonic() + moment.uniform(5, 45)
        while kinds and not study.is_done():
            if not study.runs():
                study.start()
            if time.monotonic() > due and study.strike(kinds[0], moment):
                struck.append(kinds.pop(0))
                due = time.monotonic() + moment.uniform(5, 45)
                print(f"{turn}: {struck[-1]}, command {study.commands}, {len(study.rows())} rows", flush=True)
            time.sleep(0.2)
        study.finish(at_most=len(struck) + 10)
        assert_whole(study, reproduced)
        repeated = repeated_steps(study.rows())
        print(f"{turn}: {struck}, {study.commands} commands, steps repeated {repeated}", flush=True)
        assert max(repeated, default=0) <= RECORD_EVERY
