"""A stage that is killed at any moment loses at most one checkpoint interval and leaves no files, runs or leases.

One that receives SIGTERM loses nothing.
"""

import io
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.store.store import Store
from pipeline.training.loop import CHECKPOINT, RECORD_EVERY
from tests.support.children import wait_for
from tests.support.toy_study import ToyStudy, orphans

STAGES = {"pretrain": "toy", "generate": "dg-toy", "discriminate": "dg-toy"}
UPSTREAM = {"pretrain": ["prepare"], "generate": ["pretrain"], "discriminate": ["prepare", "generate"]}

# Runs before the command. A line for every row of the history, or piece of pictures, that is begun; none takes less
# than 50 ms. A checkpoint follows every row, so that a short training has many of them.
SLOWLY = """
import time
import pipeline.sampling.sampler as sampling
import pipeline.training.loop as training

def told(work, number):
    def slow(*arguments):
        with open({log!r}, "a") as file:
            file.write(f"{{number(*arguments)}}\\n")
        time.sleep(0.05)
        return work(*arguments)
    return slow

training.CHECKPOINT_SECONDS = 0.0
training._averaged = told(training._averaged, lambda window, step: step)
sampling.GuidedSampler.sample = told(sampling.GuidedSampler.sample, lambda sampler, seeds, *wrap: seeds.start)
"""

# At the end of `pipeline/training/loop.py`: as `SLOWLY`, and a training of twelve rows takes some seconds.
SLOWLY_FROM_INSIDE = """

import time
_average = _averaged

def _averaged(window, step):
    with open({log!r}, "a") as file:
        file.write(f"{{step}}\\n")
    time.sleep(0.5)
    return _average(window, step)
"""

# A line for every step that is begun, and no checkpoint by the clock.
STEP_BY_STEP = """
import time
import pipeline.data.loader as epochs
import pipeline.training.loop as training

training.CHECKPOINT_SECONDS = 1e9
batch_of = epochs.Epochs.__call__

def told(batches, step):
    with open({log!r}, "a") as file:
        file.write(f"{{step}}\\n")
    time.sleep(0.01)
    return batch_of(batches, step)

epochs.Epochs.__call__ = told
"""


@dataclass(frozen=True)
class Slow:
    """A toy study whose stages log their progress and are slowed down."""

    toy: ToyStudy
    stage: str
    log: Path
    script: str = SLOWLY

    @property
    def name(self) -> str:
        return STAGES[self.stage]

    @property
    def command(self) -> list[str]:
        return [self.stage, self.name]

    @property
    def before(self) -> str:
        return self.script.format(log=str(self.log))

    def done(self) -> list[int]:
        """Steps with a row, or first seeds of pieces, that were begun since `forget`."""
        return [int(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def killed(self, at: int, seconds: float) -> None:
        """Begin, and die `seconds` after the row or piece number `at`."""
        child = self.toy.start(*self.command, before=self.before)
        assert wait_for(lambda: len(self.done()) >= at or child.poll() is not None, 120)
        time.sleep(seconds)
        child.kill()
        out, err = child.communicate()
        assert child.returncode == -signal.SIGKILL, f"it ended before it was killed: {out}{err}"
        assert wait_for(lambda: not orphans(child), 2)

    def finished(self) -> None:
        self.log.unlink(missing_ok=True)
        self.toy.run(*self.command, before=self.before)

    def saved(self) -> list[int]:
        """What is safe: the step of the checkpoint, or the first seeds of complete pieces."""
        (state,) = (self.toy.store / "state").iterdir()
        if self.stage == "generate":
            return [int(path.name.partition("-")[0]) for path in state.glob("[!.]*.json")]
        saved = Store(str(self.toy.store)).state(state.name).load(CHECKPOINT)
        return [] if saved is None else [torch.load(io.BytesIO(saved), weights_only=True)["training"]["step"]]


def slow(stage: str, reproduced: ToyStudy, tmp_path: Path) -> Slow:
    return Slow(reproduced.copied(tmp_path / "house", *UPSTREAM[stage]), stage, tmp_path / "log")


def assert_nothing_is_left(toy: ToyStudy) -> None:
    assert toy.left_behind() == []
    assert "RUNNING" not in {status for _, status in toy.tracked()}


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_continues_from_its_last_checkpoint_to_the_same_result(
    stage: str, reproduced: ToyStudy, tmp_path: Path
) -> None:
    run, moment = slow(stage, reproduced, tmp_path), random.Random(stage)
    run.killed(at=moment.randint(2, 3 if stage == "generate" else 10), seconds=moment.uniform(0, 0.06))
    begun, safe = run.done(), run.saved()
    assert not (run.toy.out / stage / run.name).exists()
    assert [status for _, status in run.toy.tracked()] == ["RUNNING"]
    run.finished()
    if stage == "generate":
        assert len(safe) >= len(begun) - 1
        assert not set(safe) & set(run.done()[:-1])  # the last one is the denoising path, of the first seeds
    else:
        assert safe[-1] >= begun[-1] - RECORD_EVERY
        assert run.done()[0] == safe[-1] + RECORD_EVERY
    assert run.toy.digest(stage, run.name) == reproduced.digest(stage, run.name)
    assert [status for _, status in run.toy.tracked()] == ["KILLED", "FINISHED"]
    assert [event["event"] for event in run.toy.events()] == ["started", "started", "computed"]
    assert run.toy.events()[-1]["resumed"] is True
    assert_nothing_is_left(run.toy)


LAST_WORDS = """
import os, signal
from {module} import {owner}

def and_die(work):
    def last(*arguments):
        if {first}:
            work(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    return last

{owner}.{method} = and_die({owner}.{method})
"""


@pytest.mark.parametrize(
    ("module", "owner", "method", "first"),
    [
        ("pipeline.store.store", "Store", "put", True),  # the result is in the store, the run open, the state there
        ("pipeline.dag", "run", "say", True),  # nothing but the lease
        pytest.param("pipeline.store.store", "State", "clear", False, marks=pytest.mark.slow),  # all but the state
        pytest.param("pipeline.store.store", "Store", "put", False, marks=pytest.mark.slow),  # in place, but not stored
    ],
    ids=["after put", "before the lease is given back", "before clear", "before put"],
)
def test_a_kill_after_the_computation_leaves_no_files_runs_or_leases(
    module: str, owner: str, method: str, first: bool, reproduced: ToyStudy, tmp_path: Path
) -> None:
    toy = reproduced.copied(tmp_path / "house", "pretrain")
    toy.run(
        "generate",
        "dg-toy",
        code=-signal.SIGKILL,
        before=LAST_WORDS.format(module=module, owner=owner, method=method, first=first),
    )
    toy.run("generate", "dg-toy")
    assert toy.digest("generate", "dg-toy") == reproduced.digest("generate", "dg-toy")
    assert_nothing_is_left(toy)


def test_a_training_that_receives_sigterm_saves_its_step_and_continues_from_there(
    reproduced: ToyStudy, tmp_path: Path
) -> None:
    run = replace(slow("pretrain", reproduced, tmp_path), script=STEP_BY_STEP)
    child, last = run.toy.start(*run.command, before=run.before), random.Random(8).randint(30, 180)
    assert wait_for(lambda: len(run.done()) > last, 120)
    child.terminate()
    out, err = child.communicate(timeout=30)
    assert child.returncode == 143
    assert out == ""
    assert "Traceback" not in err
    (step,) = run.saved()
    assert step == run.done()[-1] + 1
    assert f"told to stop; step {step} of 240 is saved: the same command goes on from there\n" in err
    assert orphans(child) == []
    assert [status for _, status in run.toy.tracked()] == ["KILLED"]
    assert not (run.toy.out / "pretrain").exists() or list((run.toy.out / "pretrain").iterdir()) == []
    assert list((run.toy.store / "leases").iterdir()) == []
    run.finished()
    assert run.done() == list(range(step, 240))
    assert run.toy.digest("pretrain", run.name) == reproduced.digest("pretrain", run.name)
    assert_nothing_is_left(run.toy)


@pytest.mark.parametrize("program", ["dvc", "pipeline.cli.main"])
def test_a_stage_whose_starter_is_killed_finishes_and_the_same_command_computes_nothing_twice(
    program: str, tmp_path: Path
) -> None:
    toy, log = ToyStudy.build(tmp_path / "house"), tmp_path / "log"
    toy.call("git", "-C", str(toy.house), "init", "--quiet")
    toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
    with (toy.house / "pipeline" / "training" / "loop.py").open("a") as code:
        code.write(SLOWLY_FROM_INSIDE.format(log=str(log)))
    command = [sys.executable, "-m", program, "repro", "pretrain@toy"]
    starter = subprocess.Popen(
        command, cwd=toy.folder, env=toy.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert wait_for(lambda: log.exists() and len(log.read_text().splitlines()) >= 2, 300)
    below = psutil.Process(starter.pid).children(recursive=True)
    starter.kill()
    assert starter.stdout is not None
    starter.stdout.close()  # the output of the stage has no reader from now on
    starter.wait()
    toy.call(*command)
    assert wait_for(lambda: not [process for process in below if process.is_running()], 60)
    steps = log.read_text().splitlines()
    assert len(set(steps)) == len(steps) > 2
    events = [event["event"] for event in toy.events() if event["stage"] == "pretrain"]
    assert events[:2] == ["started", "computed"]
    assert set(events[2:]) <= {"reused"}
    assert toy.lock()["pretrain@toy"]["outs"]
    assert_nothing_is_left(toy)


@pytest.fixture(scope="module")
def seconds_of(reproduced: ToyStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The duration of each stage that is not killed."""
    taken = {}
    for stage in STAGES:
        run = slow(stage, reproduced, tmp_path_factory.mktemp("undisturbed"))
        begun = time.monotonic()
        run.finished()
        taken[stage] = time.monotonic() - begun
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(10))
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_any_moment_has_the_same_result_when_run_again(
    stage: str, turn: int, reproduced: ToyStudy, seconds_of: dict[str, float], tmp_path: Path
) -> None:
    run = slow(stage, reproduced, tmp_path)
    child = run.toy.start(*run.command, before=run.before)
    time.sleep(random.Random(f"{stage} {turn}").uniform(0.05, seconds_of[stage]))
    child.kill()
    child.communicate()
    assert wait_for(lambda: not orphans(child), 2)
    run.finished()
    assert run.toy.digest(stage, run.name) == reproduced.digest(stage, run.name)
    assert_nothing_is_left(run.toy)
