"""Golden data made by other implementations: one test per file of the folder given by --reference."""

import importlib
import pkgutil
from pathlib import Path

import pytest

from tests.methods import reference_cases
from tests.methods.reference_cases.fixture import Fixture, case_for

for module in pkgutil.iter_modules(reference_cases.__path__):
    importlib.import_module(f"{reference_cases.__name__}.{module.name}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = Path(str(metafunc.config.getoption("--reference")))
    files = sorted(folder.glob("*.npz"))
    metafunc.parametrize("file", files, ids=[file.stem for file in files])


def test_our_numbers_equal_the_reference(file: Path) -> None:
    check = case_for(file.stem)
    assert check is not None, f"{file.name}: no golden test is registered for this kind of file"
    fixture = Fixture(file)
    check(fixture)
    assert not fixture.unread, f"{file.name}: arrays that no check read: {', '.join(fixture.unread)}"
