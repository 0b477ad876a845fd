"""One toy study, reproduced once for all tests that look at it or go on from a copy."""

import pytest

from tests.pipeline.toy_study import ToyStudy


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> ToyStudy:
    """After `dvc repro` in a fresh git and DVC repository. Look only; change a copy."""
    toy = ToyStudy.build(tmp_path_factory.mktemp("house") / "house")
    toy.call("git", "-C", str(toy.house), "init", "--quiet")
    toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
    toy.call("dvc", "repro")
    return toy
