"""A sweep that is killed continues with what is missing and stays one sweep in the tracker."""

import random
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.pipeline.sweeps.test_sweep import table
from tests.support.children import wait_for
from tests.support.toy_study import ToyStudy, orphans

FAKES = ("sweep", "fakes", "--of", "toy-dg", "--values", "64,128", "--seeds", "2")
STAGES = 17  # prepare, features, pretrain, 2 x generate, 4 x discriminate, sample, evaluate


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ToyStudy:
    """The sweep without interruption. Look only."""
    toy = ToyStudy.build(tmp_path_factory.mktemp("whole") / "house")
    toy.run(*FAKES)
    return toy


def victims(child: "psutil.Process", kind: str) -> list[psutil.Process]:
    """Its processes of a kind: the driver itself, those that run trials, or Ray's own."""
    if kind == "driver":
        return [child]
    found = []
    for process in child.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            words = " ".join(process.cmdline())
            if ("ray::" in words) if kind == "worker" else process.name() == "raylet":
                found.append(process)
    return found


def killed_once(
    toy: ToyStudy, kind: str, after_stages: int, *options: str, by: signal.Signals = signal.SIGKILL
) -> None:
    """Start the sweep, kill a part of it when so many stages are done, and see it end."""
    child = toy.start(*FAKES, *options)
    process = psutil.Process(child.pid)
    assert wait_for(lambda: child.poll() is not None or len(toy.events()) > 2 * after_stages, 400)
    for victim in victims(process, kind) if child.poll() is None else []:
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(by)
    child.communicate(timeout=400)
    assert wait_for(lambda: not orphans(child), 30)


def assert_whole(toy: ToyStudy, whole: ToyStudy) -> None:
    assert table(toy, "dg-fakes").equals(table(whole, "dg-fakes"))
    assert sorted(toy.tracked()) == sorted(whole.tracked())
    assert {status for _, status in toy.tracked()} == {"FINISHED"}
    for ledger in (toy.store / "ledger").glob("*.jsonl"):
        assert ledger.read_text().count('"event": "computed"') <= 1, "computed twice"
    assert toy.left_behind() == []


def test_a_killed_sweep_continues_with_what_is_missing(whole: ToyStudy, tmp_path: Path) -> None:
    toy = ToyStudy.build(tmp_path / "house")
    killed_once(toy, "driver", 6)
    assert [status for name, status in toy.tracked() if name == "sweep fakes"] == ["RUNNING"]
    toy.run(*FAKES)
    assert_whole(toy, whole)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("moment", range(10))
def test_a_sweep_by_ray_ends_as_one_after_any_process_is_killed(
    moment: int, whole: ToyStudy, tmp_path: Path
) -> None:
    toy = ToyStudy.build(tmp_path / "house")
    kind = ("driver", "worker", "raylet")[moment % 3]
    killed_once(toy, kind, random.Random(moment).randrange(STAGES), "--concurrent", "2")
    toy.run(*FAKES, "--concurrent", "2")
    assert_whole(toy, whole)


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_by_ray_that_receives_sigterm_leaves_no_run_open(tmp_path: Path) -> None:
    toy = ToyStudy.build(tmp_path / "house")
    killed_once(toy, "driver", 6, "--concurrent", "2", by=signal.SIGTERM)
    assert {status for name, status in toy.tracked() if name == "sweep fakes"} == {"KILLED"}
    assert {status for _, status in toy.tracked()} <= {"KILLED", "FINISHED"}
