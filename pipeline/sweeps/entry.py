"""What a sweep varies: an entry under `sweeps:`, on top of the shipped one of that name."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from pipeline.config.build import Block, build, pick
from pipeline.config.entries import RunEntry, StackEntry
from pipeline.config.study import Study
from pipeline.errors import ConfigError
from pipeline.metrics.card import METRICS
from pipeline.sweeps.shipped import SHIPPED

Value = bool | int | float | str | list[Any] | None


@dataclass(frozen=True)
class Paper:
    """The published numbers that stand beside ours."""

    source: str  # such as "SIDDM, Table 5"
    metric: str  # theirs, such as FID: seldom the same measure as ours
    rows: list[list[Any]]  # [value of each axis..., number]


@dataclass(frozen=True)
class Sweep:
    """Points are the product of the entries, the values and the further axes; seeds are the inner axis of each."""

    table: str  # reports/tables/<table>.csv
    field: str  # "guides.0.weight"; or any word, where `changes` says what each value means
    of: str | list[str] = ""  # runs or guided entries; STACK.MEMBER: all points train as one stack, from that member
    method: str = ""  # what a run must be trained by, to be swept so
    values: list[Value] = dataclasses.field(default_factory=list)  # empty: those of `changes`
    changes: dict[str, Block] = dataclasses.field(default_factory=dict)  # by value: fields it sets in place of `field`
    also: dict[str, list[Value]] = dataclasses.field(default_factory=dict)  # further axes: field -> values
    seeds: int = 3  # trainings per point where it changes what is trained, else sets of pictures
    metric: str = ""  # by which points are compared; fd, or of mixtures mode_kl, unless said otherwise
    paper: Paper | None = None

    def __post_init__(self) -> None:
        if self.metric and self.metric not in METRICS:
            raise ValueError(f"metric: no {self.metric!r}; there are {', '.join(METRICS)}")
        if self.seeds < 1:
            raise ValueError(f"seeds: {self.seeds} came, at least 1 was wanted")

    @property
    def entries(self) -> list[str]:
        return [self.of] if isinstance(self.of, str) else self.of

    @property
    def axes(self) -> dict[str, list[Value]]:
        """Column of the table -> its values, without the entry swept."""
        first = self.values or [_parsed(text) for text in self.changes]
        return {column(name): values for name, values in {self.field: first, **self.also}.items()}

    def points(self) -> list["Point"]:
        fields = [self.field, *self.also]
        found = []
        for of in self.entries:
            for values in product(*self.axes.values()):
                changes: Block = {}
                for name, value in zip(fields, values):
                    changes |= self.changes.get(written(value), {name: value}) if name == self.field else {name: value}
                found.append(Point(of, dict(zip(self.axes, values)), changes))
        return found

    def paper_value(self, point: "Point") -> float | None:
        values = list(point.values.values())
        rows = self.paper.rows if self.paper else []
        return next((row[-1] for row in rows if row[:-1] in (values, [point.of, *values])), None)


class Point(NamedTuple):
    """One cell of the table."""

    of: str
    values: dict[str, Value]  # by column
    changes: Block  # field of the entry -> its value

    @property
    def label(self) -> str:
        return " ".join([self.of, *(f"{name}={written(value)}" for name, value in self.values.items())])


def find_sweep(study: Study, name: str, of: str | None, values: str | None, seeds: int | None) -> Sweep:
    """With what the command line says in place of what the entry says; `of` and `values`: with commas."""
    blocks = {known: SHIPPED.get(known, {}) | study.sweeps.get(known, {}) for known in [*study.sweeps, *SHIPPED]}
    block = pick(blocks, name, "sweep")
    said = {"of": of and of.split(","), "values": values and [_parsed(part) for part in values.split(",")]}
    block = block | {key: value for key, value in said.items() if value} | ({} if seeds is None else {"seeds": seeds})
    sweep = build(Sweep, block, f"sweeps.{name}")
    if not sweep.of:
        raise ConfigError(f"sweeps.{name}: {_wanted(study, sweep)}: say which with --of, or `of:` in params.yaml")
    for entry in sweep.entries:
        pick(sweepable(study), entry, "run, guided entry or STACK.MEMBER")
    if not all(sweep.axes.values()):
        raise ConfigError(f"sweeps.{name}: no values: say which with --values, or `values:` in params.yaml")
    is_mixture = study.datasets[trained_entry(study, sweep.entries[0]).dataset].source == "mog25"
    return dataclasses.replace(sweep, metric=sweep.metric or ("mode_kl" if is_mixture else "fd"))


def sweepable(study: Study) -> dict[str, Any]:
    """By the names that `of` knows."""
    stacks = study.stacks.items()
    members = {f"{name}.{member}": fields for name, entry in stacks for member, fields in entry.members.items()}
    return {**study.runs, **study.guided, **members}


def is_stacked(study: Study, of: str) -> bool:
    """Whether it is STACK.MEMBER."""
    return of not in study.runs and of not in study.guided


def trained_entry(study: Study, of: str) -> RunEntry | StackEntry:
    """Whose method and data the points of an entry have."""
    if is_stacked(study, of):
        return study.stacks[of.partition(".")[0]]
    return study.runs[study.guided[of].run if of in study.guided else of]


def list_sweeps(study: Study) -> Iterator[dict[str, Any]]:
    """Those of params.yaml, then the shipped ones it does not name."""
    for name in [*study.sweeps, *(name for name in SHIPPED if name not in study.sweeps)]:
        sweep = build(Sweep, SHIPPED.get(name, {}) | study.sweeps.get(name, {}), f"sweeps.{name}")
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
    """Which entries of the study the sweep can be made of."""
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
    """As it is read on the command line."""
    return value if isinstance(value, str) else json.dumps(value).replace("Infinity", "inf").removesuffix(".0")


def _parsed(text: str) -> Value:
    """A number, true, false, null, inf, or else the word itself."""
    text = text.strip()
    try:
        return json.loads(text.replace("inf", "Infinity") if text in ("inf", "-inf") else text)
    except ValueError:
        return text
