"""Ends what a process started, once that process is gone, however it went.

`python -m pipeline.launch.reaper PARENT SPARED...`: the number of the process that starts this one, and of those children of
it that are none of our business. Standard input is a pipe: as long as it is silent, new children are noted down; a
line says that all are there; its end, made by the parent or by the kernel, means that they must go.

A private Ray needs this: killed with its driver, it leaves two agents that stay for another minute.
"""

import os
import select
import sys
from contextlib import suppress

import psutil

LOOK_SECONDS = 0.5


def main(parent: int, spared: set[int]) -> None:
    if os.getppid() != parent:
        return
    driver, doomed, growing = psutil.Process(parent), set[psutil.Process](), True
    while growing:
        growing = not select.select([sys.stdin], [], [], LOOK_SECONDS)[0]
        with suppress(psutil.NoSuchProcess):
            doomed.update(driver.children(recursive=True))
    sys.stdin.read()
    for process in doomed:
        if process.pid not in spared and process.pid != os.getpid():
            with suppress(psutil.NoSuchProcess):  # psutil knows a later process of the same number by its start
                process.kill()


if __name__ == "__main__":
    main(int(sys.argv[1]), {int(pid) for pid in sys.argv[2:]})
