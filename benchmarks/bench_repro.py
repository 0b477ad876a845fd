"""CPU seconds of a small study's 27 stages by `dvc repro` and by `trilemma repro`, from nothing and with nothing to do.

All descendants are counted, also those that outlive their parents. Takes about ten minutes; to be run in the
repository's folder with PYTHONPATH=. in the environment.
"""

import ctypes
import os
import resource
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.support.toy_study import ToyStudy

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryDirectory() as scratch:
        seconds = {"dvc": [0.0], "trilemma": [0.0]}
        for program, taken in seconds.items():
            toy = ToyStudy.build(Path(scratch) / program / "house")
            toy.call("git", "-C", str(toy.house), "init", "--quiet")
            toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
            taken[:] = [cpu_seconds(toy, program), cpu_seconds(toy, program)]
            print(f"{program} repro: {taken[0]:.1f} CPU s, again with nothing to do {taken[1]:.1f} CPU s", flush=True)
    ratios = [first / second for first, second in zip(*seconds.values(), strict=True)]
    print(f"dvc / trilemma: {ratios[0]:.2f}, with nothing to do {ratios[1]:.2f}")


def cpu_seconds(toy: ToyStudy, program: str) -> float:
    before = descendants_cpu_seconds()
    toy.call(program, "repro")
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return descendants_cpu_seconds() - before


def descendants_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
