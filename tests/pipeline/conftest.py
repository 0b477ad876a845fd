"""One toy study, reproduced once for all tests that read it or continue from a copy."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.dag.code_version import forget
from tests.support.toy_study import ToyStudy

WEIGHTS = ("--of", "toy-dg", "--values", "0,1,4", "--seeds", "2")


@pytest.fixture(autouse=True)
def _code_version_is_computed_again() -> None:
    """Some tests edit code and compute its version again in the same process."""
    forget()


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> ToyStudy:
    """After `trilemma repro` in a fresh git and DVC repository. Read only; change a copy."""
    return _built_once("reproduced", _reproduce, tmp_path_factory)


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> ToyStudy:
    """A sweep of guidance weights where nothing was computed before. Read only; change a copy."""
    return _built_once("swept", lambda toy: toy.run("sweep", "dg-weight", *WEIGHTS), tmp_path_factory)


def _reproduce(toy: ToyStudy) -> None:
    toy.call("git", "-C", str(toy.house), "init", "--quiet")
    toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
    toy.run("repro", "--jobs", "2")


def _built_once(name: str, build: Callable[[ToyStudy], object], folders: pytest.TempPathFactory) -> ToyStudy:
    """The first of the parallel test processes builds the study; every one works on a copy of its own."""
    own = folders.mktemp(name) / "house"
    base = folders.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    with FileLock(f"{shared}.lock"):
        if not Path(f"{shared}.built").exists():
            shutil.rmtree(shared, ignore_errors=True)  # of a process that failed to build it
            build(ToyStudy.build(shared))
            Path(f"{shared}.built").touch()
    shutil.copytree(shared, own, symlinks=True)
    return ToyStudy(own)
