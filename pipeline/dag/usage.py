"""The circumstances of a computation for the ledger: when, where, by which code and machine, seconds and memory."""

import json
import os
import platform
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.context import Launch
from pipeline.dag.energy import EnergyMeter
from pipeline.dag.graph import Call
from pipeline.errors import StoreError
from pipeline.store.store import State

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn")  # whose versions may change the bits of a result
USAGE = "usage"  # in the state of a computation
RECORD_SECONDS = 10.0  # as much of a killed attempt is not counted
MACHINE = ("cpu", "device", "workers", "python", *LIBRARIES)  # fields of the ledger that may, too


class Usage(NamedTuple):
    seconds: float
    cpu_seconds: float | None  # None: unknown, as that of Ray's processes
    joules: float | None  # None: unknown to this machine, or used by others too


class Meter:
    """What this process uses from the construction of the meter on, and what killed attempts before it used."""

    def __init__(self) -> None:
        self._started, self._cpu, self._energy = time.perf_counter(), _cpu_seconds(), EnergyMeter()
        self._before = Usage(0.0, 0.0, 0.0)

    def used(self, launch: Launch) -> Usage:
        """By all attempts at the computation."""
        seconds = time.perf_counter() - self._started
        cpu = _cpu_seconds() - self._cpu if launch.workers == 0 else None
        joules = None if launch.description["backend"] == "ray-cluster" else self._energy.joules()
        before = self._before
        total = round(before.seconds + seconds, 3)
        return Usage(total, _sum(before.cpu_seconds, cpu), _sum(before.joules, joules))

    @contextmanager
    def recording(self, state: State, launch: Launch) -> Iterator[None]:
        """Keep in the state what was used, every RECORD_SECONDS and at an error: the next attempt adds to it."""
        if (saved := state.load(USAGE)) is not None:
            self._before = Usage(*json.loads(saved))
        done = threading.Event()

        def record() -> None:
            with suppress(StoreError):  # a full disk or a lost network: the computation fails with the same error
                state.save(USAGE, json.dumps(self.used(launch)).encode())

        def keep_recording() -> None:
            while not done.wait(RECORD_SECONDS):
                record()

        recorder = threading.Thread(target=keep_recording, name="usage", daemon=True)
        recorder.start()
        is_complete = False
        try:
            yield
            is_complete = True
        finally:
            done.set()
            recorder.join()
            if not is_complete:
                record() if is_resumable(state) else state.clear()

    def cost(self, launch: Launch) -> dict[str, Any]:
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            **self.used(launch)._asdict(),
            "peak_memory_mib": round(peak / 1024),
            "cpu": cpu_model(),
            **{library: version(library) for library in LIBRARIES},
            **launch.description,
        }


def _sum(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else round(before + now, 3)


def is_resumable(state: State) -> bool:
    """Whether an attempt before left a checkpoint."""
    return bool({*state.names()} - {USAGE})


def circumstances(call: Call) -> dict[str, Any]:
    return {
        "stage": call.stage,
        "name": call.name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "python": platform.python_version(),
        "commit": commit(),
    }


def commit() -> str | None:
    """The checked-out commit, or the one a job was submitted from; None without git."""
    if submitted := os.environ.get("TRILEMMA_COMMIT"):
        return submitted
    with suppress(FileNotFoundError):
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        return git.stdout.strip() or None
    return None


def cpu_model() -> str:
    """Such as "AMD EPYC, family 25, model 17"; the architecture where /proc/cpuinfo has no model name."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "model name" in fields:
            return f"{fields['model name']}, family {fields.get('cpu family')}, model {fields.get('model')}"
    return platform.processor() or platform.machine()


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
