"""Shared by all tests: one torch thread, the folder of golden data, and the marker of tests that start processes.

`make check` leaves out the tests with the marker `process`. A test gets it if it uses Ray, a reproduced study, or
subprocess, directly or through a fixture or helper of the tests. A test without it that starts Python fails.
"""

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

import pytest
import torch

from tests.methods import every_method

unmarked_test: list[str] = []  # the test that runs; a list, for the audit hook below stays until Python ends

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference",
        type=Path,
        default=Path(__file__).parent / "reference",
        help="folder of golden files (default: the copies kept with the tests)",
    )
    parser.addoption("--method", help="a method outside methods/, on which alone the contract tests run")
    parser.addoption("--model", default="{}", help="its fields, as JSON")
    parser.addoption("--data", default="points", help="points, images or tiny")


def pytest_configure(config: pytest.Config) -> None:
    if method := config.getoption("--method"):
        model, data = json.loads(str(config.getoption("--model"))), str(config.getoption("--data"))
        every_method.CHOSEN.append(every_method.Case(str(method), model, data))


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and (item.get_closest_marker("ray") or _starts_processes(item)):
            item.add_marker("process")


def _starts_processes(test: pytest.Function) -> bool:
    fixtures = [inspect.unwrap(getattr(test.module, name)) for name in test.fixturenames if hasattr(test.module, name)]
    return bool({"reproduced", "swept"} & set(test.fixturenames)) or any(
        _uses_subprocess(used, set()) for used in (test.function, *fixtures)
    )


def _uses_subprocess(used: object, seen: set[object]) -> bool:
    """Whether a function or class of the tests names subprocess, or another one that does."""
    if used is subprocess or getattr(used, "__name__", None) == "ThreadedMotoServer":
        return True
    if not isinstance(used, FunctionType | type) or not used.__module__.startswith("tests.") or used in seen:
        return False
    seen.add(used)
    if isinstance(used, type):
        return any(_uses_subprocess(method, seen) for method in vars(used).values())
    return any(_uses_subprocess(used.__globals__.get(name), seen) for name in _names(used.__code__))


def _names(code: CodeType) -> set[str]:
    """Those of functions inside it included."""
    return set(code.co_names).union(*(_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    unmarked_test[:] = [] if item.get_closest_marker("process") else [item.nodeid]
    try:
        return (yield)
    finally:
        unmarked_test.clear()


def _check_marker(event: str, arguments: tuple[object, ...]) -> None:
    if event == "subprocess.Popen" and unmarked_test and Path(str(arguments[0])).is_relative_to(Path(sys.prefix)):
        pytest.fail(f"{unmarked_test[0]} starts {arguments[0]}: mark it with pytest.mark.process")


sys.addaudithook(_check_marker)
