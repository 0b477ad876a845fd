import ast
import gc
import sys
import time
from pathlib import Path

import pytest

from pipeline.dag.code_version import CODE, Code, code_version, forget
from pipeline.errors import ConfigError, UserError
from pipeline.launch.ray_tasks import _checked
from tests.support.toy_study import ToyStudy

FILES = {
    "methods/__init__.py": "",
    "methods/core/__init__.py": "",
    "methods/core/noise.py": "SIGMA = 1.0\n",
    "methods/core/late.py": "LATE = 1\n",
    "methods/core/types.py": "class At: ...\n",
    "methods/edm.py": (
        '"""A method."""\n'
        "from typing import TYPE_CHECKING\n"
        "import torch\n"
        "from methods.core import noise\n"
        "if TYPE_CHECKING:\n"
        "    from methods.core.types import At\n"
        "def sample(at: 'At'):\n"
        '    """Draws."""\n'
        "    from methods.core.late import LATE\n"
        "    return noise.SIGMA * LATE\n"
    ),
    "methods/ddpm.py": "STEPS = 1000\n",
    "pipeline/__init__.py": "",
    "pipeline/stages/__init__.py": "",
    "pipeline/stages/pretrain.py": "import methods.edm\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def version(root: Path, *modules: str) -> str:
    forget()
    return code_version(modules or ("pipeline.stages.pretrain",), root)


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A method."""', '"""Another docstring."""'),
        ('    """Draws."""\n', ""),
        ("import torch\n", "import torch  # the framework\n\n\n"),
        ("(at: 'At')", "(\n    at: 'At',\n)"),
    ],
)
def test_docstrings_comments_and_layout_do_not_change_the_code_version(root: Path, old: str, new: str):
    before = version(root)
    edit(root, "methods/edm.py", old, new)
    assert version(root) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("methods/core/noise.py", "1.0", "2.0"),  # through `from package import module`
        ("methods/core/late.py", "1", "2"),  # imported inside a function
        ("methods/edm.py", "noise.SIGMA *", "noise.SIGMA +"),
    ],
)
def test_an_edit_of_code_that_is_imported_anywhere_below_changes_it(root: Path, name: str, old: str, new: str):
    before = version(root)
    edit(root, name, old, new)
    assert version(root) != before


@pytest.mark.parametrize("name", ["methods/__init__.py", "methods/core/__init__.py", "pipeline/stages/__init__.py"])
def test_the_packages_of_an_imported_module_count(root: Path, name: str):
    before = version(root)
    (root / name).write_text("X = 1\n")
    assert version(root) != before


def test_moving_and_renaming_modules_and_sorting_imports_changes_no_version(root: Path):
    before = version(root)
    (root / "methods/parts/deep").mkdir(parents=True)
    for package in ("methods/parts", "methods/parts/deep"):
        (root / package / "__init__.py").write_text("")
    (root / "methods/core/noise.py").rename(root / "methods/parts/deep/levels.py")
    (root / "methods/core/late.py").rename(root / "methods/parts/last.py")
    (root / "methods/edm.py").rename(root / "methods/parts/edm.py")
    edit(root, "pipeline/stages/pretrain.py", "methods.edm", "methods.parts.edm")
    edit(root, "methods/parts/edm.py", "from methods.core.late", "from methods.parts.last")
    edit(root, "methods/parts/edm.py", "import torch\nfrom methods.core import noise\n",
         "from methods.parts.deep import levels as noise\nimport torch\nimport math\n")  # fmt: skip
    assert version(root) == before
    edit(root, "methods/parts/deep/levels.py", "1.0", "2.0")
    assert version(root) != before


def test_the_text_of_our_errors_does_not_count_but_another_error_does(root: Path):
    (root / "methods/core/noise.py").write_text("def f(x):\n    raise UserError(f'{x} came')\n")
    before = version(root)
    edit(root, "methods/core/noise.py", "{x} came", "{x} came, 2 was wanted")
    assert version(root) == before
    edit(root, "methods/core/noise.py", "UserError", "BadRecord")
    assert version(root) != before
    before = version(root)
    edit(root, "methods/core/noise.py", "came", "is here")
    assert version(root) != before


@pytest.mark.parametrize("name", ["methods/ddpm.py", "methods/core/types.py"])
def test_an_edit_elsewhere_does_not_change_it(root: Path, name: str):
    before = version(root)
    (root / name).write_text("STEPS = 4000\n")
    assert version(root) == before


def test_what_only_a_type_checker_imports_does_not_count_but_its_else_branch_does(root: Path):
    edit(root, "methods/edm.py", "def sample", "else:\n    import methods.ddpm\ndef sample")
    before = version(root)
    (root / "methods/core/types.py").write_text("class At: x = 1\n")
    assert version(root) == before
    (root / "methods/ddpm.py").write_text("STEPS = 4000\n")
    assert version(root) != before


def test_relative_imports_count_like_absolute_ones(root: Path):
    edit(root, "methods/edm.py", "from methods.core import noise", "from .core import noise")
    before = version(root)
    edit(root, "methods/core/noise.py", "1.0", "2.0")
    assert version(root) != before


def test_the_order_of_the_modules_does_not_matter(root: Path):
    assert version(root, "methods.ddpm", "methods.edm") == version(root, "methods.edm", "methods.ddpm")
    assert version(root, "methods.edm") != version(root, "methods.edm", "methods.ddpm")


def test_a_circle_of_imports_ends(root: Path):
    (root / "methods/core/noise.py").write_text("import methods.edm\nSIGMA = 1.0\n")
    assert len(version(root)) == 64


def test_a_module_that_does_not_exist_is_named(root: Path):
    with pytest.raises(ConfigError, match=r"no module methods\.edn"):
        version(root, "methods.edn")


def test_a_syntax_error_is_named_with_file_and_line(root: Path):
    (root / "methods/core/noise.py").write_text("X = 1\nSIGMA = = 2\n")
    with pytest.raises(ConfigError, match=r"noise\.py:2: "):
        version(root)


def test_sixty_files_cost_at_most_four_times_their_parsing_and_none_is_imported(root: Path):
    names = [f"methods.core.part{i}" for i in range(60)]
    body = "".join(f"def f{k}(x, y):\n    return [x * {k} + z for z in y if z != x]\n\n\n" for k in range(40))
    for i, name in enumerate(names):
        following = f"from methods.core.part{i + 1} import f1\n" if i < 59 else "raise SystemExit\n"
        (root / f"{name.replace('.', '/')}.py").write_text(following + body)
    gc.freeze()  # what the test session has loaded is not to be searched for garbage here
    began = time.process_time()
    for name in names:
        ast.parse((root / f"{name.replace('.', '/')}.py").read_bytes())
    parsed = time.process_time()
    version(root, names[0])
    seconds = time.process_time() - parsed
    gc.unfreeze()
    assert seconds < 4 * (parsed - began)
    assert not any(name in sys.modules for name in names)


EDIT = """
from pathlib import Path
def edit(name, old):
    file = Path("{house}", name)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, f"EDITED = 1\\n{{old}}", 1))
"""
EDIT_BEFORE_THE_LEASE = """
from pipeline.store.store import Store
lease = Store.lease
def late(store, key):
    edit("pipeline/stages/prepare.py", "@dataclass")
    return lease(store, key)
Store.lease = late
"""
EDIT_BEFORE_A_LATE_IMPORT = """
from pipeline.dag.code_version import Code, keep_sources
from pipeline.errors import UserError
root = Path("{house}")
keep_sources(root)
code = Code.of(("pipeline.stages.evaluate",), root)
code.check()
edit("pipeline/stages/evaluate.py", "@dataclass")
code.check()  # the module was loaded, and compared, before it was edited
edit("pipeline/metrics/features/weights.py", "@dataclass")
code.check()  # not loaded yet
import pipeline.metrics.features.weights
try:
    code.check()
except UserError as error:
    print(error)
"""


def test_code_that_was_edited_while_a_command_waited_stores_nothing(tmp_path: Path) -> None:
    toy = ToyStudy.build(tmp_path / "house")
    child = toy.run("prepare", "digits", before=(EDIT + EDIT_BEFORE_THE_LEASE).format(house=toy.house), code=2)
    (line,) = child.stderr.splitlines()
    assert "prepare.py was edited after this command had read it: nothing is stored" in line
    assert not list(toy.store.glob("results/*"))
    assert not list(toy.out.glob("prepare/*"))


def test_a_module_that_is_imported_late_is_compared_too(tmp_path: Path) -> None:
    toy = ToyStudy.build(tmp_path / "house")
    before = (EDIT + EDIT_BEFORE_A_LATE_IMPORT).format(house=toy.house)
    assert "weights.py was edited after" in toy.call(sys.executable, "-c", before).stdout


def test_a_worker_with_another_version_computes_nothing() -> None:
    other, called = Code(("pipeline.stages.evaluate",), "0" * 64), []
    with pytest.raises(UserError, match="the code was edited"):
        _checked(other.check, called.append, 1)
    assert not called
    _checked(Code.of(other.modules, CODE).check, called.append, 1)
    assert called == [1]
