"""The version of the code that made a result: of its statements, not of its layout, comments, imports or messages."""

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, TypeGuard, cast

from pipeline.config.outside import is_beside_params, locate
from pipeline.errors import ConfigError, UserError

CODE = Path(__file__).resolve().parents[2]  # the repository that this process runs
PACKAGES = ("methods", "pipeline")  # this repository's; other packages' versions are circumstance
ERRORS = frozenset({"TrilemmaError", "UserError", "ConfigError", "ArtifactError", "StoreError", "LaunchError"})


class Code(NamedTuple):
    """What a key was taken from. Can be sent to the processes that compute its result."""

    modules: tuple[str, ...]
    version: str

    @classmethod
    def of(cls, modules: tuple[str, ...], root: Path) -> "Code":
        return cls(modules, code_version(modules, root))

    def check(self) -> None:
        """Import the modules; UserError unless this process has loaded this version.

        A module is compared with its file once, after it was loaded: later edits do not matter to this process. Call it
        again when the work is done, for modules that were imported on the way.
        """
        for name in self.modules:
            import_module(name)
        if code_version(self.modules, None) != self.version:
            raise _edited("the code")
        for name in _texts(self.modules, None):
            if name in sys.modules:
                _check_loaded(name)


def keep_sources(root: Path) -> None:
    """Read all our files now, before any of them is imported for a computation: versions are those of this moment."""
    for package in PACKAGES:
        for file in (root / package).rglob("*.py"):
            _source(file)


@lru_cache(maxsize=4096)  # a sweep calls it thousands of times
def code_version(modules: tuple[str, ...], root: Path | None) -> str:
    """SHA-256 over the syntax trees of `modules` and of all our modules that they import, transitively.

    A method from elsewhere counts as ours, with the modules of its package; one beside params.yaml with its neighbours.

    modules: dotted names such as "pipeline.stages.pretrain"; root: the folder that holds `methods` and `pipeline`;
    None: those that this process imports.
    Nothing is imported, and no file is read twice: edits while a process runs change none of its versions. Modules
    imported inside functions count, those under `if TYPE_CHECKING:` do not.

    Left out are docstrings, import statements, the names of the modules, and the texts of our own errors (a stage that
    raises one leaves no result). The trees are taken in an order of their content, so that moving or renaming a
    module changes no version.
    """
    digest = hashlib.sha256()
    for text in sorted(_texts(modules, root).values()):
        digest.update(text.encode())
    return digest.hexdigest()


def _texts(modules: tuple[str, ...], root: Path | None) -> dict[str, str]:
    """By module, of these and all that they import: the words that enter versions."""
    texts: dict[str, str] = {}
    waiting = [package for name in modules for package in _with_packages(name)]
    while waiting:
        name = waiting.pop()
        if name not in texts:
            file = _file_of(name, root)
            if file is None:
                place = root or CODE
                raise ConfigError(f"no module {name} under {place}: check the name in params.yaml and the imports")
            texts[name], imported = _read(name, root, file, _source(file))
            waiting += imported
    return texts


@cache
def _source(file: Path) -> bytes:
    """The content of the file when this process read it first."""
    return file.read_bytes()


def forget() -> None:
    """Read files again: for a process that edits code."""
    code_version.cache_clear()
    _source.cache_clear()


@cache
def _check_loaded(name: str) -> None:
    """UserError if a module that is loaded now has another version on the disk than in this process's keys."""
    file = _file_of(name, None)
    if file is None:
        raise _edited(name)
    now, before = file.read_bytes(), _source(file)
    if now != before and _read(name, None, file, now) != _read(name, None, file, before):
        raise _edited(str(file))


def _edited(what: str) -> UserError:
    return UserError(f"{what} was edited after this command had read it: nothing is stored; run the command again")


def _with_packages(name: str) -> list[str]:
    """a, a.b and a.b.c of a.b.c: importing a module runs its packages too."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _is_own(module: str, importer: str) -> bool:
    """Whether a module's code counts where `importer` imports it."""
    top, own = module.partition(".")[0], importer.partition(".")[0]
    if top in PACKAGES or own in PACKAGES:
        return top in PACKAGES
    return top == own or (is_beside_params(own) and is_beside_params(top))


def _file_of(name: str, root: Path | None) -> Path | None:
    package, *inner = name.split(".")
    if package not in PACKAGES:
        return locate(name)
    folder = Path(import_module(package).__path__[0]).resolve() if root is None else root / package
    path = folder.joinpath(*inner)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@lru_cache(maxsize=1024)
def _read(name: str, root: Path | None, file: Path, source: bytes) -> tuple[str, list[str]]:
    """The words of a module's tree that enter versions, "" if there are none; the names of our modules it imports."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ConfigError(f"{file}:{error.lineno}: {error.msg}: repair the file") from error
    words: list[str] = []
    _write(tree.body, words)
    return "" if words == ["[", "]"] else "\n".join(words), list(_imported(tree, name, file, root))


def _imported(tree: ast.Module, name: str, file: Path, root: Path | None) -> Iterator[str]:
    """Names of our modules that this one imports."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in _running(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = _from(node, package, name, root)
        else:
            continue
        for module in modules:
            if _is_own(module, name):
                yield from _with_packages(module)


def _from(node: ast.ImportFrom, package: str, importer: str, root: Path | None) -> list[str]:
    """`from a.b import c` names the module a.b, and a.b.c where that is one."""
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    base = ".".join([*above, *(node.module or "").split(".")]).strip(".")
    inner = [f"{base}.{alias.name}" for alias in node.names]
    return [base, *(module for module in inner if _is_own(module, importer) and _file_of(module, root) is not None)]


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below, except those under `if TYPE_CHECKING:`."""
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        children = iter(node.orelse)
    for child in children:
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield child
            yield from _running(child)


def _is_type_checking(test: ast.expr) -> bool:
    return (test.id if isinstance(test, ast.Name) else getattr(test, "attr", None)) == "TYPE_CHECKING"


def _write(value: object, words: list[str]) -> None:
    """Append `value`, a tree or a part of one, without the parts that `_is_left_out` names.

    Faster than ast.dump; empty fields are left out, so that most trees are the same in every version of Python.
    """
    kind = value.__class__
    if kind is list:
        words.append("[")
        for part in cast(list[object], value):
            if part.__class__ not in MAYBE_LEFT_OUT or not _is_left_out(part):
                _write(part, words)
        words.append("]")
    elif isinstance(value, ast.AST):
        if kind is ast.Raise and _is_our_error(error := cast(ast.Raise, value).exc):
            value = ast.Raise(error.func)  # without its text
        words.append(kind.__name__)
        for name in value._fields:
            part = getattr(value, name, None)
            if part is not None and part != [] and name != "ctx":
                words.append(name)
                _write(part, words)
    else:
        words.append(repr(value))


MAYBE_LEFT_OUT = frozenset({ast.If, ast.Expr, ast.Import, ast.ImportFrom})


def _is_left_out(part: object) -> bool:
    """Imports, blocks for type checkers, and strings that are statements: docstrings, also of attributes."""
    if isinstance(part, ast.If):
        return _is_type_checking(part.test) and all(_is_left_out(inner) for inner in part.orelse)
    if isinstance(part, ast.Expr):
        return isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)
    return isinstance(part, ast.Import | ast.ImportFrom)


def _is_our_error(raised: ast.expr | None) -> TypeGuard[ast.Call]:
    return isinstance(raised, ast.Call) and isinstance(raised.func, ast.Name) and raised.func.id in ERRORS
