"""Methods of files beside params.yaml and of installed packages."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import study as study_module
from pipeline.config.build import build_method
from pipeline.config.study import Study, load_study
from pipeline.dag.code_version import forget
from pipeline.dag.graph import STAGES
from pipeline.errors import ConfigError
from tests.methods import test_contract
from tests.methods.every_method import Case

ROOT = Path(__file__).parents[3]
EXAMPLE = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own-methods.md").read_text(), re.DOTALL)[0]
PARAMS = f"""
root: {ROOT}
datasets: {{digits: {{source: digits}}}}
runs: {{mine: {{dataset: digits, method: METHOD, model: {{}}, train: {{}}, sample: {{}}}}}}
"""


@pytest.fixture(autouse=True)
def _import_state() -> Iterator[None]:
    """The path of imports and the modules are as before."""
    path, environment, modules = list(sys.path), dict(os.environ), set(sys.modules)
    study_module.method_modules.cache_clear()
    yield
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)
    for name in sys.modules.keys() - modules:
        if name.partition(".")[0] in ("flow", "mypackage", "neighbour"):
            del sys.modules[name]


def study_of(folder: Path, method: str, **files: str) -> Study:
    for name, text in files.items():
        file = folder.joinpath(*name.split("__")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (folder / "params.yaml").write_text(PARAMS.replace("METHOD", method))
    return load_study(folder / "params.yaml")


def key(study: Study) -> str:
    forget()
    return STAGES["pretrain"].call(study, "mine").key(ROOT, {"data": "a"})


def test_the_documented_example_fulfils_the_contract(tmp_path: Path) -> None:
    study_of(tmp_path, "flow.Flow", flow=EXAMPLE)
    case = Case("flow.Flow", {"width": 16})
    test_contract.test_five_and_five_steps_equal_ten_bit_for_bit(case)
    test_contract.test_a_loss_is_pure_and_moves_only_its_players_network(case)
    test_contract.test_an_image_is_the_same_in_any_range_and_batch(case)
    test_contract.test_other_seeds_make_other_images(case)


def test_its_code_and_that_of_its_neighbours_is_in_the_key(tmp_path: Path) -> None:
    code = EXAMPLE.replace("from dataclasses", "from neighbour import NUMBER\nfrom dataclasses", 1)
    first = key(study := study_of(tmp_path, "flow.Flow", flow=code, neighbour="NUMBER = 1\n"))
    assert "flow" in STAGES["pretrain"].call(study, "mine").modules
    (tmp_path / "flow.py").write_text(f"# a comment\n{code}")
    assert key(study) == first
    (tmp_path / "flow.py").write_text(code.replace("0.999", "0.99"))
    assert key(study) != first
    (tmp_path / "flow.py").write_text(code)
    (tmp_path / "neighbour.py").write_text("NUMBER = 2\n")
    assert key(study) != first


def test_a_method_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "study").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    package = tmp_path / "site" / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("WIDTH = 8\n")
    (package / "mine.py").write_text(
        EXAMPLE.replace("from dataclasses", "from mypackage.parts import WIDTH\nfrom dataclasses", 1)
    )
    study = study_of(tmp_path / "study", "mypackage.mine.Flow")
    first = key(study)
    assert type(build_method("mypackage.mine.Flow", {"width": 4})).__name__ == "Flow"
    (package / "parts.py").write_text("WIDTH = 9\n")
    assert key(study) != first


@pytest.mark.parametrize(
    ("method", "files", "told"),
    [
        ("edm.EDM", {"edm": EXAMPLE}, "'edm' is the name of methods/edm.py: rename yours"),
        ("gan.mine.Mine", {"gan__mine": EXAMPLE}, "'gan' is the name of methods/gan.py: rename yours"),
        ("methods.edm.EDM", {}, "'methods' is the name of the package methods: rename yours; ours are like"),
        ("json.Mine", {"json": EXAMPLE}, "json.py: a module of Python or an installed one is named 'json' too"),
        ("torch.Mine", {"torch": EXAMPLE}, "torch.py: a module of Python or an installed one is named 'torch' too"),
        ("flow.Flaw", {"flow": EXAMPLE}, "flow.py; it has Sampling, Flow"),
        ("flow.Flow", {"flow": "x = (\n"}, "flow.py:1: '(' was never closed"),
        ("flwo.Flow", {}, "no methods/flwo.py; there are"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(tmp_path: Path, method: str, files: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        study_of(tmp_path, method, **files)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            EXAMPLE.replace("def draw", "def drew"),
            "method 'flow.Flow': a generator needs draw: see docs/own-methods.md",
        ),
        (EXAMPLE.replace("    Sampling = Sampling\n", ""), "a generator needs Sampling"),
        (EXAMPLE.replace("(frozen=True)", "()"), "Flow is no frozen dataclass"),
        (
            EXAMPLE.replace("import torch\n", "import torch\nimport nosuchmodule\n", 1),
            "flow.py:7: ModuleNotFoundError: No",
        ),
        (EXAMPLE + "\nundefined\n", "NameError: name 'undefined' is not defined"),
    ],
)
def test_a_file_that_does_not_work_is_named_with_its_line(tmp_path: Path, code: str, told: str) -> None:
    study_of(tmp_path, "flow.Flow", flow=code)
    with pytest.raises(ConfigError) as raised:
        build_method("flow.Flow", {})
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
