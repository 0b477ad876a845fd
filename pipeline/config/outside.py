"""Methods outside methods/: of an installed package, or of a Python file beside params.yaml."""

import importlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import ConfigError

OURS = ("methods", "pipeline")


def locate(module: str) -> Path | None:
    """The file of a module, which is not imported; None if there is none with source code."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except (ValueError, ImportError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None
    paths = [Path(folder, *rest) for folder in spec.submodule_search_locations or ()]
    files = [file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py")]
    return next((file for file in files if file.is_file()), None)


def is_beside_params(top: str) -> bool:
    """Whether a module or package lies in the folder of a params.yaml."""
    file = locate(top)
    return file is not None and (_folder_of(file) / "params.yaml").is_file()


def make_importable(top: str, folder: Path) -> None:
    """A module or package in a study's folder can be imported, here and by processes that start later.

    ConfigError if another module has its name.
    """
    own = [file for file in (folder / f"{top}.py", folder / top / "__init__.py") if file.is_file()]
    if not own:
        return
    found = locate(top)
    taken = top in sys.stdlib_module_names or (found is None and find_spec(top) is not None)
    if taken or (found is not None and not found.samefile(own[0])):
        raise ConfigError(f"{own[0]}: a module of Python or an installed one is named {top!r} too: rename the file")
    if found is None:
        sys.path.append(str(folder))
        others = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([*([others] if others else []), str(folder)])
        importlib.invalidate_caches()


def _folder_of(file: Path) -> Path:
    """Of the module, or of the package."""
    return file.parent.parent if file.name == "__init__.py" else file.parent
