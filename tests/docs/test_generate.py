"""The generated pages, the JSON schema, and what the written pages list."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from jsonschema import Draft7Validator
from ruamel.yaml import YAML

from docs import schema
from docs.blocks import KINDS, comments, keys, methods, sources
from docs.generate import api_pages, app, cli_page, params_page

ROOT = Path(__file__).parents[2]
PARAMS = [ROOT / "params.yaml", *sorted(ROOT.glob("studies/*/params.yaml"))]
VARIABLE = re.compile(r"TRILEMMA_[A-Z]+")
LEAVING = {"TRILEMMA_CACHE", "TRILEMMA_PIECE"}  # of options that are being removed


@dataclass(frozen=True)
class Inner:
    size: int | None = None  # pixels


@dataclass(frozen=True)
class Base:
    seed: int = 0  # of the draws


@dataclass(frozen=True)
class Example(Base):
    path: str = field(kw_only=True)
    kind: Literal["a", "b"] = "a"
    spacing: str | None = None  # a comment below the name
    widths: tuple[int, ...] = (1, 2)  # per level
    limit: float = float("inf")
    inner: Inner = field(default_factory=Inner)


def test_a_block_has_a_row_for_every_key_with_type_default_and_comment() -> None:
    assert [tuple(key) for key in keys(Example)] == [
        ("seed", "integer", "0", "of the draws"),
        ("path", "text", "required", ""),
        ("kind", "a or b", "a", ""),
        ("spacing", "text or null", "null", "a comment below the name"),
        ("widths", "list of integer", "[1, 2]", "per level"),
        ("limit", "number", ".inf", ""),
        ("inner.size", "integer or null", "null", "pixels"),
    ]


def test_comments_come_from_the_source_and_from_inherited_fields() -> None:
    assert comments(Example)["seed"] == "of the draws"
    assert comments(Example)["widths"] == "per level"


def test_the_page_of_params_has_every_section_source_and_method() -> None:
    page = params_page()
    for heading in [*KINDS, "sweeps", *(f"options of source {name}" for name in sources())]:
        assert re.search(rf"^#+ {re.escape(heading)}$", page, re.MULTILINE), heading
    for name, method in methods().items():
        table = page.partition(f"### model of {name}\n")[2].partition("\n#")[0]
        missing = [f.name for f in fields(method) if f.name != "trunk" and f"| `{f.name}" not in table]
        assert not missing, f"{name}: no row for {', '.join(missing)}"


def test_the_page_of_the_command_line_has_every_command_and_option() -> None:
    page, top = cli_page(), typer.main.get_command(app)
    for name, command in _commands(top, "trilemma"):
        section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert section, f"no section for {name}"
        for option in (option for param in command.params for option in param.opts if option.startswith("--")):
            assert option in section or option == "--help", f"{name}: {option} is missing"


def test_every_public_module_has_a_place_on_an_api_page() -> None:
    listed = set(re.findall(r"^::: (\S+)$", "\n".join(api_pages().values()), re.MULTILINE))
    files = [file for top in ("methods", "pipeline") for file in ROOT.glob(f"{top}/**/[!_]*.py")]
    assert {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files} == listed


def test_the_schema_in_the_repository_is_the_one_the_code_gives() -> None:
    assert schema.FILE.read_text() == schema.text(), "write it again: python -m docs.schema"


@pytest.mark.parametrize("file", PARAMS, ids=lambda file: file.parent.name)
def test_every_shipped_params_file_fits_the_schema_and_names_it(file: Path) -> None:
    errors = [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in _errors(_read(file))]
    assert not errors
    named = file.read_text().partition("\n")[0].removeprefix("# yaml-language-server: $schema=")
    assert (file.parent / named).resolve() == schema.FILE


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("runs.edm-digits.model.widht", 24),
        ("runs.edm-digits.model.width", "wide"),
        ("runs.edm-digits.method", "edm.MDE"),
        ("runs.edm-digits.sample.solver", "leapfrog"),
        ("runs.edm-digits.train.stpes", 1),
        ("datasets.mog25.options.sides", 5),
        ("datasets.digits.features.inception", "yes"),
        ("guided.edm-digits-dg.guides.0.wieght", 1.0),
        ("stacks.siddm-table-1.members.gan-1.stepz", 1),
        ("sweeps.nfe.sedes", 3),
        ("launch.workers", "many"),
    ],
)
def test_the_schema_refuses_misspelt_keys_and_wrong_types(place: str, value: object) -> None:
    digits, mixtures = (_read(ROOT / "studies" / name / "params.yaml") for name in ("digits", "mog25"))
    params: Any = (
        {"launch": {}} | digits | {part: digits.get(part, {}) | mixtures[part] for part in ("datasets", "stacks")}
    )
    block = params
    *way, last = place.split(".")
    for part in way:
        block = block[int(part)] if isinstance(block, list) else block[part]
    block[last] = value
    assert any(place.startswith(".".join(map(str, error.absolute_path))) for error in _errors(params))


def test_the_table_of_environment_variables_is_complete() -> None:
    page = (ROOT / "docs/reference/environment.md").read_text()
    code = ("pipeline/**/*.py", "methods/**/*.py", "infra/*.yaml", "Makefile")
    used = {name for pattern in code for file in ROOT.glob(pattern) for name in VARIABLE.findall(file.read_text())}
    assert used - LEAVING == set(re.findall(r"^\| `(TRILEMMA_[A-Z]+)`", page, re.MULTILINE))


def test_the_navigation_names_exactly_the_written_and_generated_pages() -> None:
    navigation = YAML(typ="safe", pure=True).load((ROOT / "mkdocs.yml").read_text())["nav"]
    written = {file.relative_to(ROOT / "docs").as_posix() for file in ROOT.glob("docs/**/*.md")}
    assert set(_leaves(navigation)) == written | {"reference/params.md", "reference/cli.md"}


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _errors(params: Any) -> list[Any]:
    return list(Draft7Validator(json.loads(schema.FILE.read_text())).iter_errors(params))


def _read(file: Path) -> Any:
    return YAML(typ="safe", pure=True).load(file.read_text())


def _leaves(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    else:
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _leaves(inner)
