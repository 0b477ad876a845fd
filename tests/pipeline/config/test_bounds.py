"""Every setting that is a number has bounds, and nothing that a params.yaml holds ends in a traceback."""

import copy
import dataclasses
import math
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from typer.testing import CliRunner

from docs.blocks import KINDS, Sweep, methods, sources
from pipeline.cli.main import app
from pipeline.cli.standalone import weights
from pipeline.config.build import build, nearest
from pipeline.config.entries import LaunchEntry
from pipeline.config.study import load_study
from pipeline.dag.graph import STAGES, entries, stage_module
from pipeline.errors import ConfigError, TrilemmaError
from pipeline.sweeps.entry import find_sweep
from pipeline.sweeps.overrides import check

ROOT = Path(__file__).parents[3]
FREE = {(Sweep, "values"), (Sweep, "also"), (Sweep, "paper")}  # of any type: the field that is varied has bounds


def classes() -> dict[type, None]:
    """Every dataclass that a block of params.yaml is read into."""
    found: dict[type, None] = {}

    def add(kind: type) -> None:
        found[kind] = None
        for hint in get_type_hints(kind).values():
            for part in (hint, *get_args(hint)):
                if dataclasses.is_dataclass(part) and part not in found:
                    add(part)  # type: ignore[arg-type]

    for kind in (*KINDS.values(), LaunchEntry, Sweep, *methods().values(), *sources().values()):
        add(kind)
        for inner in ("Sampling", "Use"):
            if hasattr(kind, inner):
                add(getattr(kind, inner))
    for stage in (*STAGES, "import-checkpoint"):
        add(import_module(stage_module(stage)).Config)
    return found


def numbers(hint: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The types int and float in a type, each with its bounds."""
    if get_origin(hint) is Annotated:
        kind, *bounds = get_args(hint)
        yield from ((inner, (*own, *bounds)) for inner, own in numbers(kind))
    elif hint in (int, float):
        yield hint, ()
    else:
        for part in get_args(hint):
            yield from numbers(part)


FIELDS = [
    (kind, field.name, get_type_hints(kind, include_extras=True)[field.name])
    for kind in classes()
    for field in dataclasses.fields(kind)
    if field.init and (kind, field.name) not in FREE
]
NUMERIC = [(kind, name, hint, *number) for kind, name, hint in FIELDS for number in numbers(hint)]


def test_every_number_has_bounds() -> None:
    assert len(NUMERIC) > 150
    for kind, name, _, number, bounds in NUMERIC:
        assert any(isinstance(bound, Ge | Gt) for bound in bounds), (kind, name)
        is_open = name == "churn_max"  # infinity is its default
        assert any(isinstance(bound, Le | Lt) for bound in bounds) or (is_open and number is float), (kind, name)


def test_values_out_of_bounds_and_of_other_types_are_one_line_each() -> None:
    for _, name, hint, number, bounds in NUMERIC:
        one = dataclasses.make_dataclass("one", [(name, hint)])
        low = next(bound for bound in bounds if isinstance(bound, Ge | Gt))
        values: list[Any] = [
            cast(int, low.ge) - 1 if isinstance(low, Ge) else low.gt,
            -math.inf,
            math.nan,
            "1",
            True,
            {"a": 1},
            "x" * 10_000,
        ]
        values += [1.5] if number is int else []
        values += [10**400] if name != "churn_max" else []
        for value in values:
            with pytest.raises(ConfigError, match=rf"^x\.{name}") as raised:
                build(one, {name: [value] * 2 if "list" in str(hint) or "tuple" in str(hint) else value}, "x")
            assert len(str(raised.value)) < 300
            assert "\n" not in str(raised.value)


PARAMS: dict[str, Any] = {
    "root": str(ROOT),
    "launch": {"workers": 2, "stream": False},
    "datasets": {
        "digits": {"source": "digits", "features": {"epochs": 2}, "fakes": 200, "evaluate": {"images": 96}},
        "mog": {"source": "mog25", "options": {"side": 5, "centre": None}},
    },
    "runs": {
        "one": {
            "dataset": "digits",
            "method": "edm.EDM",
            "model": {"net": "mlp", "width": 16, "lr": 2.0e-3, "channel_mult": [1, 2]},
            "train": {"steps": 240, "batch": 32, "seed": 1},
            "sample": {"steps": 3, "churn": 1.5},
        }
    },
    "classifiers": {
        "cg": {"dataset": "digits", "method": "classifier_guidance.Classifier", "model": {}, "train": {"held_out": 0.1}}
    },
    "guides": {
        "dg": {
            "run": "one",
            "trunk": "cg",
            "method": "discriminator_guidance.Discriminator",
            "model": {"body": "head", "width": 16},
            "train": {"patience": 3},
        }
    },
    "guided": {"one-dg": {"run": "one", "guides": [{"guide": "dg", "weight": 2.0}], "sample": {}}},
    "translations": {"blocky": {"guided": "one-dg", "starts": [0.1, 5.0], "images": 70, "sets": 2}},
    "stacks": {
        "table": {
            "dataset": "mog",
            "method": "siddm.SIDDM",
            "model": {"net": "mixture-mlp"},
            "members": {"two": {"steps": 2}},
            "train": {"steps": 10, "seeds": 1},
            "sample": {},
        }
    },
    "sweeps": {
        "weights": {"of": "one-dg", "field": "guides.0.weight", "values": [0, 1], "seeds": 2, "table": "weights"}
    },
}
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -3, 2**31, 2**63, 10**30, -0.0, math.inf, math.nan, 1e-320])
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["", "..", "../x", "10", "true", "edm.EDM", "x" * 300, "a.b", "methods.x"]
)
VALUES = st.recursive(
    NUMBERS | TEXTS | st.booleans() | st.none() | st.dates() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | NUMBERS | st.none(), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in nested blocks and lists."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


@st.composite
def changed_params(draw: st.DrawFn) -> dict[str, Any]:
    """With one or two values replaced, a key added, or an entry left out."""
    params = copy.deepcopy(PARAMS)
    for _ in range(draw(st.integers(1, 2))):
        container, key = draw(st.sampled_from(list(places(params))))
        change = draw(st.sampled_from(["replace", "replace", "replace", "add", "drop"]))
        if change == "drop":
            del container[key]
        elif change == "add" and isinstance(container, dict):
            container[draw(TEXTS | NUMBERS | st.none())] = draw(VALUES)
        else:
            container[key] = draw(VALUES)
    return params


def refused(folder: Path) -> str:
    """The error, if any, of what commands do before they compute: every entry, its stages' settings, its sweeps."""
    try:
        study = load_study(folder / "params.yaml")
        check([STAGES[stage].call(study, name) for stage, names in entries(study).items() for name in names])
        for name in study.sweeps:
            find_sweep(study, name).points()
    except (TrilemmaError, ValueError) as error:
        return str(error)
    return ""


def examples(count: int) -> Any:
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, deadline=timedelta(seconds=20), suppress_health_check=quiet, derandomize=True)


def check_params(params: dict[str, Any], folder: Path) -> None:
    file = folder / "params.yaml"
    with file.open("w") as stream:
        YAML(typ="safe", pure=True).dump(params, stream)
    message = refused(folder)
    assert "\n" not in message
    assert len(message) < 2000
    assert list(folder.iterdir()) == [file]


@examples(200)
@given(params=changed_params())
def test_any_params_are_read_or_refused_in_one_line_and_nothing_is_written(params: Any, tmp_path: Path) -> None:
    check_params(params, tmp_path)


@pytest.mark.slow
@examples(5000)
@given(params=changed_params())
def test_any_of_many_params_are_read_or_refused_in_one_line(params: Any, tmp_path: Path) -> None:
    check_params(params, tmp_path)


def test_the_params_that_are_changed_are_right(tmp_path: Path) -> None:
    check_params(PARAMS, tmp_path)
    assert refused(tmp_path) == ""


LAUGHS = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7", "a block of `key: value` was wanted"),
        ("", "None came, but a block"),
        ("datasets: null\nruns: 0", "runs: 0 came, but a block"),
        ("a: \0", "is not YAML"),
        ("a: " + "[" * 3000, "is not YAML"),
        ("a: " + "[" * 60 + "]" * 60, "more than 100000 values or 50 levels"),
        (LAUGHS, "more than 100000 values or 50 levels"),
        ("a: &a [*a]", "more than 100000 values or 50 levels"),
        ("a: 2026-01-01", "'a': 2026-01-01 came, a date to YAML: quote it"),
        ("a: !!binary aGk=", "came, a bytes to YAML"),
        ("a: !!set {x, y}", "came, a set to YAML"),
        ("? [1, 2]\n: 3", ""),
        ("a: 1\na: 2", "is not YAML"),
        ("a: " + "9" * 5000, "is not YAML"),
        ("root: 7", "root: 7 came, the path of a folder was wanted"),
    ],
)
def test_odd_yaml_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_study(tmp_path / "params.yaml")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@examples(200)
@given(text=st.text(alphabet="abc:-[]{}&*!|>'\"#%@`, \n\t\x00\x85é0.", max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    assert "\n" not in refused(tmp_path)
    assert nearest(text, ["runs"]) in ("", " (did you mean 'runs'?)")


def test_repeated_values_and_entries_are_used_once(tmp_path: Path) -> None:
    params = copy.deepcopy(PARAMS)
    params["sweeps"]["weights"] |= {"values": [1, 1.0, 0, 1], "of": ["one-dg", "one-dg"]}
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump(params, stream)
    points = find_sweep(load_study(tmp_path / "params.yaml"), "weights").points()
    assert [point.label for point in points] == ["one-dg weight=1", "one-dg weight=0"]


def test_every_option_of_a_command_that_is_a_number_has_a_lower_bound() -> None:
    commands = [*app.registered_commands, *weights.registered_commands]
    hints = [(c.callback, *hint) for c in commands for hint in get_type_hints(c.callback, include_extras=True).items()]
    whole = [found for found in hints if any(kind is int for kind, _ in numbers(found[2]))]
    assert {name for _, name, _ in whole} >= {"port", "workers", "concurrent", "seeds", "jobs", "images", "epochs"}
    for command, name, hint in whole:
        assert any(getattr(part, "min", None) is not None for part in get_args(hint)), (command, name)


@pytest.mark.parametrize("value", ["-1", "1.5", "many", "", "nan", "65536", "9" * 400])
def test_a_port_out_of_bounds_is_refused(value: str) -> None:
    result = CliRunner().invoke(app, ["ui", "--port", value])
    assert result.exit_code == 2
    assert not isinstance(result.exception, ValueError | OverflowError)
