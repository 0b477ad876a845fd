"""A key covers what makes the bytes of a result and nothing else: content is in it, circumstance is not."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from pipeline.dag.code_version import code_version, forget

ROOT = Path(__file__).parents[3]
CIRCUMSTANCE = ("dag", "launch", "tracking", "store", "sweeps", "tables", "report", "cli")
CIRCUMSTANTIAL = ("pipeline.config.study", "pipeline.config.entries", "pipeline.console")
CONTENT = ("stages", "sampling", "training", "metrics", "data")


def modules_of(*folders: str) -> list[str]:
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")) if file.stem != "__init__"]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]


CODE_OF_STAGES = {name: (name,) for name in modules_of("pipeline/stages")} | {
    name: ("pipeline.stages.pretrain", name) for name in modules_of("methods") if name.count(".") == 1
}
OUTSIDE_KEYS = [*modules_of(*(f"pipeline/{room}" for room in CIRCUMSTANCE)), *CIRCUMSTANTIAL]
IN_KEYS = [
    *modules_of(*(f"pipeline/{room}" for room in CONTENT), "methods"),
    "pipeline.errors",
    "pipeline.context",
    "pipeline.config.build",
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("code")
    for package in ("methods", "pipeline"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def reached() -> dict[str, set[str]]:
    """By the code of a stage, all modules that it imports; found by another program than the one tested."""
    graph = grimp.build_graph("methods", "pipeline", exclude_type_checking_imports=True)
    return {
        name: {*code}.union(*(graph.find_upstream_modules(module) for module in code))
        for name, code in CODE_OF_STAGES.items()
    }


def versions(root: Path) -> dict[str, str]:
    forget()
    return {name: code_version(code, root) for name, code in CODE_OF_STAGES.items()}


@pytest.fixture(scope="module")
def before(copy: Path) -> dict[str, str]:
    return versions(copy)


def edited(source: str) -> str:
    """With its first string or number changed, docstrings apart; with a new constant where there is none."""
    for node in constants(ast.parse(source)):
        lines = source.splitlines(keepends=True)
        line = lines[node.lineno - 1].encode()
        new = b"'edited'" if isinstance(node.value, str) else b"12345"
        lines[node.lineno - 1] = (line[: node.col_offset] + new + line[node.end_col_offset :]).decode()
        return "".join(lines)
    return source + "\nEDITED = 1\n"


def constants(tree: ast.Module) -> Iterator[ast.Constant]:
    """Those of assignments at the top of a module, on one line."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            for node in ast.walk(statement):
                if not isinstance(node, ast.Constant) or type(node.value) not in (str, int, float):
                    continue
                if node.lineno == node.end_lineno:
                    yield node


def changed_by(module: str, copy: Path, before: dict[str, str]) -> set[str]:
    """The stages whose code has another version after an edit of the module."""
    file = copy.joinpath(*module.split(".")).with_suffix(".py")
    source = file.read_text()
    file.write_text(edited(source))
    try:
        after = versions(copy)
    finally:
        file.write_text(source)
    return {name for name in before if after[name] != before[name]}


@pytest.mark.parametrize("module", OUTSIDE_KEYS)
def test_an_edit_of_circumstance_changes_no_key(module: str, copy: Path, before: dict[str, str]) -> None:
    assert changed_by(module, copy, before) == set()


@pytest.mark.parametrize("module", IN_KEYS)
def test_an_edit_of_content_changes_the_keys_of_the_stages_that_import_it(
    module: str, copy: Path, before: dict[str, str], reached: dict[str, set[str]]
) -> None:
    assert changed_by(module, copy, before) == {name for name, modules in reached.items() if module in modules}


def test_moving_three_modules_changes_no_key(copy: Path, before: dict[str, str], tmp_path: Path) -> None:
    moves = {
        "pipeline.data.shards": "pipeline.data.blocks",
        "pipeline.metrics.card": "pipeline.data.card",
        "methods.core.rng": "methods.random_streams",
    }
    moved = tmp_path / "moved"
    shutil.copytree(copy, moved)
    for old, new in moves.items():
        moved.joinpath(*old.split(".")).with_suffix(".py").rename(moved.joinpath(*new.split(".")).with_suffix(".py"))
    for file in moved.rglob("*.py"):
        text = file.read_text()
        for old, new in moves.items():
            text = text.replace(f"from {old} import", f"from {new} import")
        file.write_text(text)
    assert versions(moved) == before
