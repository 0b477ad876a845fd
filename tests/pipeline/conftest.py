"""One toy study, reproduced once for all tests that look at it or go on from a copy."""

import pytest

from pipeline.dag.code_version import code_version
from tests.support.toy_study import ToyStudy

WEIGHTS = ("--of", "toy-dg", "--values", "0,1,4", "--seeds", "2")


@pytest.fixture(autouse=True)
def _code_is_read_anew() -> None:
    """Some tests edit code and take its version again in the same process."""
    code_version.cache_clear()


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> ToyStudy:
    """After `dvc repro` in a fresh git and DVC repository. Look only; change a copy."""
    toy = ToyStudy.build(tmp_path_factory.mktemp("house") / "house")
    toy.call("git", "-C", str(toy.house), "init", "--quiet")
    toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
    toy.call("dvc", "repro")
    return toy


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> ToyStudy:
    """A sweep of guidance weights where nothing was computed before. Look only; change a copy."""
    toy = ToyStudy.build(tmp_path_factory.mktemp("swept") / "house")
    toy.run("sweep", "dg-weight", *WEIGHTS)
    return toy
