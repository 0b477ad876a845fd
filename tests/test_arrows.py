"""Rules of the layout that the contracts of import-linter, in pyproject.toml, cannot state."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", ["methods/core", "methods/nets"])
def test_shared_mathematics_and_networks_import_no_method(folder: str) -> None:
    method_modules = {f"methods.{file.stem}" for file in (ROOT / "methods").glob("[!_]*.py")}
    for file in modules(folder):
        assert not imported(file) & method_modules, file
        if folder == "methods/nets":
            continue
        assert not any(name.startswith("methods.nets") for name in imported(file)), file


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "ray", "mlflow", "dvc", "pandas", "numpy", "pyarrow", "matplotlib", "sklearn", "pydantic",
             "psutil")  # fmt: skip
    script = f"import sys, pipeline.cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    imported_modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert imported_modules.stdout.strip() == "[]"


def test_packages_hold_no_definitions() -> None:
    for file in [*modules("methods"), *modules("pipeline")]:
        if file.name == "__init__.py":
            assert file.read_text() == "", file
