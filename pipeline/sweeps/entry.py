"""The definition of a sweep: an entry under `sweeps:`, on top of the shipped one of the same name."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from methods.core.numbers import Count
from pipeline.config.build import Block, build, pick
from pipeline.config.entries import RunEntry, StackEntry
from pipeline.config.study import Study
from pipeline.config.yaml_file import read_yaml
from pipeline.errors import ConfigError
from pipeline.metrics.card import METRICS

Value = bool | int | float | str | list[Any] | None


@dataclass(frozen=True)
class Paper:
    """Published numbers, shown beside the measured ones."""

    source: str  # such as "SIDDM, Table 5"
    metric: str  # the paper's, such as FID: seldom computed as the measured one
    rows: list[list[Any]]  # [value of each axis..., number]


@dataclass(frozen=True)
class Sweep:
    """Points are the product of the entries, the values and the further axes; seeds are the inner axis of each."""

    table: str  # reports/tables/<table>.csv
    field: str  # "guides.0.weight"; or any word, where `changes` has the fields that each value sets
    of: str | list[str] = ""  # runs or guided entries; STACK.MEMBER: all points train as one stack, from that member
    method: str = ""  # only runs of this method can be swept
    values: list[Value] = dataclasses.field(default_factory=list)  # empty: those of `changes`
    changes: dict[str, Block] = dataclasses.field(default_factory=dict)  # by value: fields set in place of `field`
    fixed: Block = dataclasses.field(default_factory=dict)  # fields set at all points
    also: dict[str, list[Value]] = dataclasses.field(default_factory=dict)  # further axes: field -> values
    seeds: Count = 3  # trainings per point where it changes what is trained, else sets of images
    metric: str = ""  # by which points are compared; empty: fd, or mode_kl where the distribution is known
    paper: Paper | None = None

    def __post_init__(self) -> None:
        if self.metric and self.metric not in METRICS:
            raise ValueError(f"metric: no {self.metric!r}; there are {', '.join(METRICS)}")

    @property
    def entries(self) -> list[str]:
        """Each once: a repeated entry is no further training."""
        return [self.of] if isinstance(self.of, str) else list(dict.fromkeys(self.of))

    @property
    def axes(self) -> dict[str, list[Value]]:
        """Column of the table -> its values, each once; without the column of the entry."""
        first = self.values or [_parsed(text) for text in self.changes]
        axes = {self.field: first, **self.also}
        return {column(name): list({written(value): value for value in axes[name]}.values()) for name in axes}

    def points(self) -> list["Point"]:
        points = []
        for of, (first, *others) in product(self.entries, product(*self.axes.values())):
            changes = self.changes.get(written(first), {self.field: first}) | dict(zip(self.also, others))
            points.append(Point(of, dict(zip(self.axes, [first, *others])), self.fixed | changes))
        return points

    def paper_value(self, point: "Point") -> float | None:
        values = list(point.values.values())
        rows = self.paper.rows if self.paper else []
        return next((row[-1] for row in rows if row[:-1] in (values, [point.of, *values])), None)


class Point(NamedTuple):
    """One cell of the table."""

    of: str
    values: dict[str, Value]  # by column
    changes: Block  # field of the entry -> its value, or {times: FACTOR} of it

    @property
    def label(self) -> str:
        return " ".join([self.of, *(f"{name}={written(value)}" for name, value in self.values.items())])


@cache
def shipped() -> dict[str, Block]:
    return read_yaml(Path(__file__).with_name("shipped.yaml"))


def _blocks(study: Study) -> dict[str, Block]:
    """The sweeps of params.yaml, then the shipped ones that it does not name."""
    return {name: shipped().get(name, {}) | study.sweeps.get(name, {}) for name in [*study.sweeps, *shipped()]}


def find_sweep(
    study: Study, name: str, of: str | None = None, values: str | None = None, seeds: int | None = None
) -> Sweep:
    """The sweep of that name; of, values (with commas) and seeds replace what the entry has."""
    given = {"of": of and of.split(","), "values": values and [_parsed(part) for part in values.split(",")]}
    given |= {"seeds": seeds}
    block = pick(_blocks(study), name, "sweep") | {key: value for key, value in given.items() if value}
    sweep = build(Sweep, block, f"sweeps.{name}")
    if not sweep.of:
        raise ConfigError(f"sweeps.{name}: {_wanted(study, sweep)}: name one with --of, or `of:` in params.yaml")
    members = {f"{stack}.{member}": entry for stack, entry in study.stacks.items() for member in entry.members}
    for entry in sweep.entries:
        pick({**study.runs, **study.guided, **members}, entry, "run, guided entry or STACK.MEMBER")
    if not all(sweep.axes.values()):
        raise ConfigError(f"sweeps.{name}: no values: give them with --values, or `values:` in params.yaml")
    return sweep if sweep.metric else dataclasses.replace(sweep, metric=_usual_metric(study, sweep.entries[0]))


def _usual_metric(study: Study, of: str) -> str:
    source = study.datasets[study.measured_as(trained_entry(study, of).dataset)].source
    return "mode_kl" if _has_known_distribution(source) else "fd"


@cache
def _has_known_distribution(source: str) -> bool:
    kind = import_module(f"pipeline.data.datasets.{source}").Source
    return hasattr(kind, "facts") and "law" in kind().facts


def is_stacked(study: Study, of: str) -> bool:
    """Whether `of` is STACK.MEMBER."""
    return of not in study.runs and of not in study.guided


def trained_entry(study: Study, of: str) -> RunEntry | StackEntry:
    """The entry that has the method and the dataset of the points of `of`."""
    if is_stacked(study, of):
        return study.stacks[of.partition(".")[0]]
    return study.runs[study.guided[of].run if of in study.guided else of]


def list_sweeps(study: Study) -> Iterator[dict[str, Any]]:
    for name, block in _blocks(study).items():
        sweep = build(Sweep, block, f"sweeps.{name}")
        yield {
            "sweep": name,
            "of": [entry for entry in sweep.entries if entry],
            "needs": "" if sweep.of else _wanted(study, sweep),
            "axes": sweep.axes,
            "seeds": sweep.seeds,
            "paper": sweep.paper.source if sweep.paper else "",
            "table": f"reports/tables/{sweep.table}.csv",
        }


def _wanted(study: Study, sweep: Sweep) -> str:
    """The kind of entry that the sweep needs, and the study's entries of that kind."""
    kind = "guided entry" if sweep.field.startswith("guide") else "run"
    of_method = [name for name, run in study.runs.items() if sweep.method in ("", run.method)]
    fitting = of_method if kind == "run" else [name for name in study.guided if study.guided[name].run in of_method]
    method = f" of method {sweep.method}" if sweep.method else ""
    return f"needs a {kind}{method}; this study has {', '.join(fitting) or 'none'}"


def column(name: str) -> str:
    """A field as a column and parameter: "guides.0.weight" -> "weight", "guides.1.scale" -> "guide_1_scale"."""
    parts = name.split(".")
    if parts[0] == "guides" and parts[1:2] not in ([], ["0"]):
        return "_".join(["guide", *parts[1:]])
    return parts[-1]


def written(value: Value) -> str:
    """The value as text, as on the command line."""
    return value if isinstance(value, str) else json.dumps(value).replace("Infinity", "inf").removesuffix(".0")


def _parsed(text: str) -> Value:
    """The value of a text: a number, true, false, null, inf, or else the text itself."""
    text = text.strip()
    try:
        return json.loads(text.replace("inf", "Infinity") if text in ("inf", "-inf") else text)
    except ValueError:
        return text
