"""Settings that make results equal to the bit."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def device_name() -> str:
    """ "cpu", or "cuda:" and the GPU's model."""
    torch = sys.modules.get("torch")
    return f"cuda:{torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else "cpu"


@contextmanager
def reproducible() -> Iterator[None]:
    """One thread and deterministic kernels: the same bits in this process, in a Ray worker and on a busy machine.

    Not for deciding numerics: precision, and what a GPU's model changes, stay as they are.
    """
    torch = sys.modules.get("torch")
    if torch is None:  # nothing in this process computes with it
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it first starts
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")  # torch.compile reads it when it is first imported
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # `use_deterministic_algorithms` imports torch.compile, 4 CPU seconds
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
