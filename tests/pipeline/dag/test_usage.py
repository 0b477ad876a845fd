"""The cost of a computation counts every attempt at it."""

import json
import time
from pathlib import Path

import pytest

from pipeline.dag import usage
from pipeline.dag.energy import EnergyMeter
from pipeline.dag.usage import USAGE, Meter, is_resumable
from pipeline.launch.launcher import InProcess
from pipeline.store.store import State, Store

KEY = "a" * 64
STEP = 0.02  # seconds


@pytest.fixture
def state(tmp_path: Path) -> State:
    return Store(str(tmp_path / "store")).state(KEY)


def work(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def attempt(state: State, checkpoint: bool = True, dies: bool = True) -> Meter:
    meter = Meter()
    with meter.recording(state, InProcess()):
        if checkpoint:
            state.save("checkpoint", b"1")
        work(STEP)
        if dies:
            raise InterruptedError
    return meter


def test_a_resumed_computation_costs_what_all_its_attempts_cost(state: State) -> None:
    for _ in range(2):
        with pytest.raises(InterruptedError):
            attempt(state)
    assert is_resumable(state)
    cost = attempt(state, dies=False).cost(InProcess())
    assert cost["seconds"] >= 3 * STEP
    assert cost["cpu_seconds"] >= 3 * STEP


def test_what_a_killed_attempt_used_was_recorded_while_it_ran(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "RECORD_SECONDS", STEP)
    with Meter().recording(state, InProcess()):
        while state.load(USAGE) is None:  # a process killed here leaves this behind
            work(STEP)
    assert json.loads(state.load(USAGE) or b"")[0] >= STEP
    assert not is_resumable(state)


def test_a_computation_that_fails_without_a_checkpoint_leaves_nothing(state: State) -> None:
    with pytest.raises(InterruptedError):
        attempt(state, checkpoint=False)
    assert state.names() == []


def test_cpu_seconds_stay_unknown_after_an_attempt_in_other_processes(state: State) -> None:
    state.save(USAGE, json.dumps([5.0, None, 7.0]).encode())
    cost = attempt(state, dies=False).cost(InProcess())
    assert cost["seconds"] >= 5
    assert cost["cpu_seconds"] is None


def test_energy_is_that_of_all_packages_and_counters_may_begin_again(tmp_path: Path) -> None:
    def count(**microjoules: int) -> None:
        for name, value in microjoules.items():
            zone = tmp_path / f"intel-rapl:{name.replace('_', ':').removeprefix('z')}"
            zone.mkdir(exist_ok=True)
            (zone / "energy_uj").write_text(f"{value}\n")
            (zone / "max_energy_range_uj").write_text("99999999\n")

    assert EnergyMeter(tmp_path).joules() is None
    count(z0=90_000_000, z1=0, z0_0=0)
    meter = EnergyMeter(tmp_path)
    count(z0=10_000_000, z1=5_000_000, z0_0=8_000_000)
    assert meter.joules() == 25.0
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.joules() is None
