"""Ray's errors as one line: what failed, where, and what to do."""

import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from ray.cloudpickle.cloudpickle import dumps

from pipeline.console import one_line
from pipeline.errors import LaunchError, UserError
from pipeline.launch.signals import Stopped


def no_gpu(node: str) -> UserError:
    return UserError(
        f"the node {node} promised a GPU, but torch {torch.__version__} finds none there: install the driver and torch "
        "for CUDA on it, or start its Ray with --num-gpus 0"
    )


@contextmanager
def pickled_errors(where: str) -> Iterator[None]:
    """Let an exception reach the driver with its own type; its traceback cannot be pickled and becomes a note."""
    try:
        yield
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)[2:]  # without this file's
        sent = error if _can_be_pickled(error) else LaunchError(one_line(error))
        sent.add_note(f"{where}:\n{''.join(traceback.format_list(frames)).rstrip()}")
        raise sent from None


def _can_be_pickled(error: BaseException) -> bool:
    try:
        pickle.loads(dumps(error))
    except (TypeError, AttributeError, pickle.PickleError):
        return False
    return True


@contextmanager
def stoppable() -> Iterator[None]:
    """Restores `Stopped`: while Ray waits, it replaces what a handler of SIGTERM raises by SystemExit(1)."""
    try:
        yield
    except SystemExit:
        raise Stopped from None
