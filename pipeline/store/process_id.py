"""A process on a host: the owner of a lease, a temporary file or an MLflow run."""

import os
from typing import NamedTuple

SAME_START_SECONDS = 2.0  # a clock correction shifts start times a little; no process number is used again so soon


class ProcessId(NamedTuple):
    """`started` distinguishes it from a later process with the same number."""

    host: str
    pid: int
    started: float  # seconds since the epoch

    @classmethod
    def current(cls) -> "ProcessId":
        import psutil  # here, because `trilemma --help` imports this module and needs no process

        process = psutil.Process()
        return cls(os.uname().nodename, process.pid, round(process.create_time(), 2))

    @property
    def is_here(self) -> bool:
        """Only on this host can `is_alive` return False."""
        return self.host == os.uname().nodename

    def is_alive(self) -> bool:
        """False only if it certainly ended; a process of another machine cannot be checked from here."""
        if not self.is_here:
            return True
        import psutil

        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < SAME_START_SECONDS
            return same and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"
