"""ARCHITECTURE.md names the functions that a call of `trilemma pretrain NAME` passes through, in order."""

import re
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import FrameType

import pytest

from pipeline.cli.main import main
from tests.support.toy_study import NOT_INHERITED, ToyStudy

DOCUMENT = Path(__file__).parents[1] / "ARCHITECTURE.md"
LEADING = {f"pipeline.{name}" for name in ("cli.main", "dag.run", "stages.pretrain", "training.loop")}


@pytest.fixture
def _sigterm_restored() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("_sigterm_restored")
def test_the_walk_of_pretrain_names_the_functions_that_are_called_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = ToyStudy.build(tmp_path / "house")
    params = toy.folder / "params.yaml"
    params.write_text(params.read_text().replace("steps: 240, batch: 32", "steps: 8, batch: 32", 1))
    for name in NOT_INHERITED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(toy.folder)
    monkeypatch.setattr("pipeline.dag.run.CODE", toy.house)
    _functions_called(monkeypatch, "prepare", "digits")
    functions = _functions_called(monkeypatch, "pretrain", "toy")
    assert _functions_named(DOCUMENT.read_text()) == functions, "the walk must be\n" + "\n".join(functions)


def test_the_modules_and_functions_named_exist() -> None:
    text = DOCUMENT.read_text()
    for path in re.findall(r"`(\w+/[\w/]+)`", text):
        base = DOCUMENT.parent if path.startswith(("methods", "tests", "reports")) else DOCUMENT.parent / "pipeline"
        assert (base / path).is_dir() or (base / f"{path}.py").is_file(), path
    for name in re.findall(r"`(\w+\.\w+\.[\w.]+)`", text):
        room, module, function = name.split(".", 2)
        assert attrgetter(function)(import_module(f"pipeline.{room}.{module}")), name


def _functions_named(text: str) -> list[str]:
    walk = text.partition("\n## The way of one call")[2].partition("\n1. ")[2].partition("\n\n")[0]
    return re.findall(r"`(\w+\.\w+\.[\w.]+)`", walk)


def _functions_called(monkeypatch: pytest.MonkeyPatch, *command: str) -> list[str]:
    """By a trilemma command in this process, in order of their first call."""
    functions: dict[str, None] = {}

    def record(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and _is_part_of_the_walk(frame):
            functions.setdefault(f"{_module(frame)}.{frame.f_code.co_qualname}".removeprefix("pipeline."))

    monkeypatch.setattr(sys, "argv", ["trilemma", *command])
    with pytest.raises(SystemExit) as end:
        _profiled(record)
    assert not end.value.code
    return list(functions)


def _profiled(record: Callable[[FrameType, str, object], None]) -> None:
    sys.setprofile(record)
    try:
        main()
    finally:
        sys.setprofile(None)


def _is_part_of_the_walk(frame: FrameType) -> bool:
    """A public function of a leading module, or one that a leading module calls; neither nested nor a property."""
    name, module = frame.f_code.co_qualname, _module(frame)
    if not module.startswith("pipeline.") or any(part.startswith(("_", "<")) for part in name.split(".")):
        return False
    caller = frame.f_back
    while caller and not _module(caller).startswith(("pipeline.", "methods.")):
        caller = caller.f_back
    if module not in LEADING and not (caller and _module(caller) in LEADING):
        return False
    try:
        function = attrgetter(name)(sys.modules[module])
    except AttributeError:  # the body of a class, while its module is imported
        return False
    return callable(function) and not isinstance(function, type)


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")
