"""What this machine gives, and what a process takes before it works."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from methods.core.devices import current_device
from pipeline.dag.plan_meter import MIB

CGROUP = Path("/sys/fs/cgroup")
CODE = """
import time, pandas, matplotlib.pyplot, pipeline.report.figures, pipeline.stages.pretrain, pipeline.tracking.watch
from pathlib import Path
from pipeline.tracking.mlflow_run import connect
with connect(Path({folder!r})).open_run("plan/plan", "plan", {{}}, {{}}, {{}}): pass
print(time.process_time())
import pipeline.metrics.image_evaluator
"""  # the last is for memory: others come to as much by what they log


class Start(NamedTuple):
    cpu_seconds: float
    mib: float


def start_of_stage(folder: Path) -> Start:
    """Imports, and a run of a new tracker in `folder`: measured, in a process of its own. Stages differ little."""
    here = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{here}:{os.environ.get('PYTHONPATH', '')}", "MLFLOW_TRACKING_URI": ""}
    command = [sys.executable, "-c", CODE.format(folder=str(folder))]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        seconds = float(child.stdout.read())
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    return Start(seconds, used.ru_maxrss / 1024)


def memory_limit_mib() -> float:
    """Of the GPU where one computes; else of this process's control group, or of the machine."""
    if current_device().type == "cuda":
        return torch.cuda.mem_get_info()[1] / MIB
    found = [_number(folder / "memory.max") for folder in _groups()]
    return min([psutil.virtual_memory().total, *(limit for limit in found if limit is not None)]) / MIB


def _groups() -> list[Path]:
    """The folders of this process's control group and of those around it (cgroup v2)."""
    file = Path("/proc/self/cgroup")
    lines = file.read_text().splitlines() if file.is_file() else []
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    own = CGROUP / path
    return [own, *(parent for parent in own.parents if parent.is_relative_to(CGROUP))]


def _number(file: Path) -> int | None:
    text = file.read_text().strip() if file.is_file() else "max"
    return int(text) if text.isdecimal() else None
