"""Child processes for tests of kills, locks and signals: a piece of Python run on its own, and waiting for it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]


def start(code: str, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
    """Run `code`, which finds `arguments` in sys.argv[1:], and wait until it has printed its first line."""
    command = [sys.executable, "-c", dedent(code), *map(str, arguments)]
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    while (letter := os.read(child.stdout.fileno(), 1)) != b"\n":
        assert letter, f"the child ended before its first line was whole: {child.communicate()[1]}"
    return child


def kill(child: "subprocess.Popen[str]") -> str:
    """kill -9, and what the child had written to stderr."""
    child.kill()
    return child.communicate()[1]


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
