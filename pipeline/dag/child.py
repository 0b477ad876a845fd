"""The command of a DVC stage, or of a part of one, as a child of `trilemma repro`."""

import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from dvc.rwlock import rwlock
from dvc.stage import Stage
from dvc.stage.run import prepare_kwargs

from pipeline.dag.resolve import Part

FORKS = multiprocessing.get_context("forkserver")  # commands are forked from a process that has imported LIBRARIES
LIBRARIES = [
    "torch",
    "pyarrow.parquet",
    "mlflow.store.tracking.sqlalchemy_store",
    "pandas",
    "scipy.stats",
    "sklearn.svm",
]
PLAIN_COMMAND = re.compile(r"trilemma [\w@.,:='\" /+-]+")  # no shell is needed for it


class Child:
    """A command in a session of its own, so that Ctrl-C reaches `trilemma repro` alone."""

    def __init__(self, stage: Stage, part: Part | None, slot: int, environment: Mapping[str, str]) -> None:
        """part: of the stage, in its environment; it touches no file that DVC knows."""
        self.stage, self.slot, self.is_part = stage, slot, part is not None
        self.name, self.command = (part.name, part.command) if part else (str(stage.addressing), str(stage.cmd))
        self.began, self.reason = time.monotonic(), ""
        with ExitStack() as locks:
            if part is None:
                files = [[item.fs_path for item in items] for items in (stage.deps, stage.outs)]
                lock = rwlock(stage.repo.tmp_dir, stage.repo.fs, " ".join(sys.argv), *files, hardlink=False)
                locks.enter_context(lock)
            self.output, output = multiprocessing.Pipe(duplex=False)
            self.process = _start(self.command, prepare_kwargs(stage, environment), output)
            output.close()
            self.locks = locks.pop_all()

    def print_lines(self) -> int:
        """Print the command's lines after the stage's name, until it ends; its exit code."""
        print(f"{self.name} | > {self.command}", flush=True)
        with os.fdopen(os.dup(self.output.fileno()), errors="replace") as lines:
            for line in lines:
                if text := line.rstrip():
                    print(f"{self.name} | {text}", flush=True)
                    self.reason = text if text.startswith("trilemma: ") else ""
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait()
        self.process.join()
        return self.process.exitcode or 0

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            if isinstance(self.process, subprocess.Popen):  # a shell, whose end would leave its command running
                os.killpg(self.process.pid, signal.SIGTERM)
            else:
                self.process.terminate()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)


def _start(
    command: str, keywords: Mapping[str, Any], output: Connection
) -> "subprocess.Popen[bytes] | ForkServerProcess":
    """Run the command with DVC's environment and folder; its output goes to `output`."""
    environment = keywords["env"]
    program = shutil.which("trilemma", path=environment["PATH"])
    if PLAIN_COMMAND.fullmatch(command) and program == shutil.which("trilemma", path=str(Path(sys.executable).parent)):
        arguments = (shlex.split(command)[1:], keywords["cwd"], environment, output)
        process = FORKS.Process(target=_run_trilemma, args=arguments)
        process.start()
        return process
    return subprocess.Popen(
        command,
        shell=True,
        executable=environment.get("SHELL", "/bin/sh"),
        stdin=subprocess.DEVNULL,
        stdout=output.fileno(),
        stderr=output.fileno(),
        cwd=keywords["cwd"],
        env=environment,
        start_new_session=True,
    )


def _run_trilemma(arguments: Sequence[str], folder: str, environment: Mapping[str, str], output: Connection) -> None:
    """The command `trilemma *arguments`, in a forked process."""
    os.setsid()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output.fileno(), stream.fileno())
    output.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["trilemma", *arguments]
    import_module("pipeline.cli.main").main()
