"""What every benchmark measures: CPU time of its own process, which what else runs on the machine does not enter."""

import time
from collections.abc import Callable


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start
