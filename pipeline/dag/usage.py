"""What a computation cost: seconds, memory, and the machine and libraries it ran with."""

import platform
import resource
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.context import Launch

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn")  # whose versions may change the bits of a result
MACHINE = ("cpu", "device", "workers", "python", *LIBRARIES)  # the notes of the ledger that do


class Meter:
    """What this process uses from now on."""

    def __init__(self) -> None:
        self._started, self._cpu = time.perf_counter(), _cpu_seconds()

    def cost(self, launch: Launch) -> dict[str, Any]:
        here = launch.description["workers"] == 0  # what Ray's processes use is not known to this one
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "seconds": round(time.perf_counter() - self._started, 3),
            "cpu_seconds": round(_cpu_seconds() - self._cpu, 3) if here else None,
            "peak_memory_mib": round(peak / 1024),
            "cpu": cpu_model(),
            **{library: version(library) for library in LIBRARIES},
            **launch.description,
        }


def cpu_model() -> str:
    """Such as "AMD EPYC, family 25, model 17"; where the system does not say, its architecture."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "model name" in found:
            return f"{found['model name']}, family {found.get('cpu family')}, model {found.get('model')}"
    return platform.processor() or platform.machine()


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
