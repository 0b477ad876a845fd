"""Arrows between modules point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN_IN_METHODS = {"ray", "mlflow", "dvc", "typer", "pandas", "pyarrow", "pydantic", "pipeline", "sklearn", "rich"}
ONLY_HOME = {
    "ray": {"launch_ray.py", "launch_train.py", "launch_cluster.py", "launch_tune.py", "submit.py", "travel.py"},
    "mlflow": {"tracking.py", "tracking_runs.py"},
}


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


@pytest.mark.parametrize("file", modules("methods"), ids=str)
def test_methods_import_only_torch_and_each_other(file: Path) -> None:
    tops = {name.partition(".")[0] for name in imported(file)}
    assert not tops & FORBIDDEN_IN_METHODS


@pytest.mark.parametrize("folder", ["methods/core", "methods/nets"])
def test_shared_mathematics_and_networks_know_no_paper(folder: str) -> None:
    papers = {f"methods.{file.stem}" for file in (ROOT / "methods").glob("[!_]*.py")}
    for file in modules(folder):
        assert not imported(file) & papers, file
        if folder == "methods/nets":
            continue
        assert not any(name.startswith("methods.nets") for name in imported(file)), file


@pytest.mark.parametrize("library", ONLY_HOME)
def test_each_service_is_known_in_one_place(library: str) -> None:
    for file in modules("pipeline"):
        if any(name.partition(".")[0] == library for name in imported(file)):
            assert file.name in ONLY_HOME[library], file


CIRCUMSTANCE = {
    "launch",
    "launch_ray",
    "launch_train",
    "launch_cluster",
    "reaper",
    "process",
    "runner",
    "store",
    "places",
    "bucket",
    "lease",
    "publish",
    "tracking",
    "watch",
    "progress",
}
CONTENT = ("training", "held_out", "breakdown", "stacking", "weights", "painting", "denoising_paths", "epochs", "rows",
           "shards", "artifacts", "judge", "stage")  # fmt: skip


def test_what_makes_a_result_knows_nothing_of_where_it_runs() -> None:
    """Not even in types."""
    content = [ROOT / "pipeline" / f"{name}.py" for name in CONTENT]
    for file in [*content, *modules("pipeline/stages"), *modules("pipeline/importers")]:
        if file.name != "entry.py":
            assert not imported(file) & {f"pipeline.{name}" for name in CIRCUMSTANCE}, file


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "ray", "mlflow", "dvc", "pandas", "numpy", "pyarrow", "matplotlib", "sklearn", "pydantic",
             "psutil")  # fmt: skip
    script = f"import sys, pipeline.cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_packages_hold_no_definitions() -> None:
    for file in [*modules("methods"), *modules("pipeline")]:
        if file.name == "__init__.py":
            assert file.read_text() == "", file
