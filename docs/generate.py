"""The generated pages of the site: params.yaml's keys, the command line, and an API page for every package.

A hook of mkdocs: nothing is written into docs/, so no page can be out of date.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.blocks import (
    KINDS,
    TRAIN,
    AnySample,
    FeaturesConfig,
    Key,
    LaunchEntry,
    Sweep,
    bad_record_key,
    keys,
    methods,
    sources,
    summary,
)  # fmt: skip
from methods import autoguidance
from pipeline.cli.main import app

ROOT = Path(__file__).parents[1]
PARAMS_HEAD = """# params.yaml

Every key with its type, default and comment, taken from the dataclasses that the file is read into. A key with a dot
is in a nested block: `evaluate.images` means `evaluate: {images: ...}`. A misspelt key is an error. Write numbers as
`1.0e-4`, not as `1e-4`, which some YAML readers take for text.

With this first line, an editor that has a YAML language server completes and checks the file by
[its JSON schema](../params.schema.json):

```yaml
# yaml-language-server: $schema=docs/params.schema.json
```
"""
PROJECT = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")  # of the repository's root


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The API pages and those of the project at the end of the navigation."""
    assert config.nav is not None
    config.nav += [{"API": list(api_pages())}, {"Project": list(project_pages())}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {"reference/params.md": params_page(), "reference/cli.md": cli_page(), **api_pages(), **project_pages()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def params_page() -> str:
    """Every key of params.yaml with type, default and comment."""
    parts = [
        PARAMS_HEAD,
        "## Top level",
        _table(
            Key("root", "text", ".", "folder of the code, relative to this file"),
            *(key._replace(name=f"launch.{key.name}") for key in keys(LaunchEntry)),
            *(Key(kind, "named entries", "{}", summary(entry)) for kind, entry in KINDS.items()),
            Key("sweeps", "named entries", "{}", summary(Sweep)),
        ),
    ]
    for kind, entry in [*KINDS.items(), ("sweeps", Sweep)]:
        parts += [f"## {kind}", summary(entry), _table(*keys(entry))]
        if kind == "datasets":
            for name, source in sources().items():
                parts += [f"### options of source {name}", summary(source), _table(*keys(source), bad_record_key())]
            settable = [key for key in keys(FeaturesConfig) if key.name != "images"]  # it comes from `evaluate`
            parts += ["### features", summary(FeaturesConfig), _table(*settable)]
        if kind == "autoguided":
            parts += [
                "### weaker, beside `run:`",
                summary(autoguidance.Use),
                _table(*keys(autoguidance.Use, AnySample)),
            ]
        if kind in TRAIN:
            parts += [f"### train of {kind}", summary(TRAIN[kind][0]), _table(*keys(*TRAIN[kind]))]
    parts += ["## Methods", "An entry's `method` is one of these; its blocks have these keys."]
    for name, method in methods().items():
        parts += [f"### model of {name}", summary(method), _table(*keys(method))]
        if hasattr(method, "Sampling"):
            parts += [f"### sample of {name}", _table(*keys(method.Sampling, AnySample))]
        if hasattr(method, "Use"):
            parts += [f"### use, beside `guide:` in `guided`, of {name}", _table(*keys(method.Use))]
    return "\n\n".join(part for part in parts if part) + "\n"


def cli_page() -> str:
    """Every command with its arguments and options."""
    top: Any = typer.main.get_command(app)
    parts = ["# Command line", top.help]
    for name, command in _commands(top, "trilemma"):
        usage = " ".join([name, *(_argument(param) for param in command.params if param.param_type_name == "argument")])
        parts += [f"## {name}", command.help or "", f"```\n{usage} [OPTIONS]\n```"]
        parts += [_parameters([param for param in command.params if param.name != "help"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def api_pages() -> dict[str, str]:
    """A page for every package of methods and pipeline, with all modules that are not private to it."""
    found: dict[str, str] = {}
    for package in sorted(
        path.parent for top in ("methods", "pipeline") for path in ROOT.glob(f"{top}/**/__init__.py")
    ):
        name = ".".join(package.relative_to(ROOT).parts)
        modules = sorted(path.stem for path in package.glob("[!_]*.py"))
        if modules:
            found[f"api/{name}.md"] = "\n\n".join([f"# {name}", *(f"::: {name}.{module}" for module in modules)]) + "\n"
    return found


def project_pages() -> dict[str, str]:
    """Pages at the repository's root, which link into docs/."""
    return {name: (ROOT / name).read_text().replace("](docs/", "](") for name in PROJECT if (ROOT / name).is_file()}


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper() + (" ..." if param.nargs == -1 else "")
    return name if param.required else f"[{name.strip('[]')}]"


def _parameters(params: list[Any]) -> str:
    """Of a command: one row each."""
    if not params:
        return ""
    rows = ["| argument or option | default | environment | meaning |", "|---|---|---|---|"]
    for param in params:
        name = _argument(param) if param.param_type_name == "argument" else ", ".join(param.opts)
        default = "required" if param.required else "" if param.default in (None, False) else str(param.default)
        variable = f"`{param.envvar}`" if param.envvar else ""
        rows.append(f"| `{name}` | {default} | {variable} | {_cell(getattr(param, 'help', None) or '')} |")
    return "\n".join(rows)


def _table(*rows: Key) -> str:
    if not rows:
        return "No keys."
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{key.name}` | {_cell(key.type)} | `{key.default}` | {_cell(key.comment)} |" for key in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Plain text in a cell of a Markdown table."""
    for mark in "\\|*_[]<>":
        text = text.replace(mark, f"\\{mark}") if mark != "<" else text.replace("<", "&lt;")
    return text
