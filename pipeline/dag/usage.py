"""The circumstances of a computation for the ledger: when, where, by which code and machine, seconds and memory."""

import os
import platform
import resource
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.context import Launch
from pipeline.dag.graph import Call

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn")  # whose versions may change the bits of a result
MACHINE = ("cpu", "device", "workers", "python", *LIBRARIES)  # fields of the ledger that may, too


class Meter:
    """What this process uses from the construction of the meter on."""

    def __init__(self) -> None:
        self._started, self._cpu = time.perf_counter(), _cpu_seconds()

    def cost(self, launch: Launch) -> dict[str, Any]:
        is_complete = launch.workers == 0  # the CPU time of Ray's processes is not measured
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "seconds": round(time.perf_counter() - self._started, 3),
            "cpu_seconds": round(_cpu_seconds() - self._cpu, 3) if is_complete else None,
            "peak_memory_mib": round(peak / 1024),
            "cpu": cpu_model(),
            **{library: version(library) for library in LIBRARIES},
            **launch.description,
        }


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
