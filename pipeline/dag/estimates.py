"""How long stages will take: as recorded, or else by a rule. For the order in which they start, and the time left."""

import csv
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.build import build, build_method
from pipeline.config.study import Study, load_study
from pipeline.dag.graph import STAGES, Call, entries, stage_module
from pipeline.dag.resolve import Cost, Part, past_costs
from pipeline.errors import TrilemmaError
from pipeline.store.open import open_store

# By the rule, seconds of one core, start included; right to a factor of three on images of 8x8 to 16x16 pixels.
SECONDS = {
    "prepare": 5.0, "features": 8.0, "check-metrics": 14.0, "evaluate": 3.0, "evaluate-stack": 30.0, "sweep": 3.0,
    "report": 15.0,
}  # fmt: skip
OTHER = 1.0
SWEEP = "sweep"  # the command
U_NETS = ("unet", "ncsnpp", "adm", "conv", "stylegan2")
STEP, U_NET_STEP = 0.2e-3, 1.5e-3  # of one image and player in a training
CALL, U_NET_CALL = 0.05e-3, 0.5e-3  # of one image in a network call of a sampler


FIRST_NOTE, LONGEST_PAUSE = 60.0, 600.0  # seconds until the time left is printed, and between two such lines


class PredictedCosts(NamedTuple):
    """By command, as of DVC's stages, without quotes."""

    costs: dict[str, Cost]
    parts: dict[str, list[Part]]  # of sweeps


class Estimates:
    """Of the calls of a study and of its sweeps."""

    def __init__(self, study: Study) -> None:
        self.study, self.recorded = study, _reported(study.folder) | past_costs(open_store(study))

    def of(self, call: Call) -> Cost:
        """The recorded cost of the entry, by the rule more or less where the call has settings of its own."""
        recorded = self.recorded.get((call.stage, call.name))
        try:
            if recorded is None:
                return Cost(by_rule(call), 0)
            own = STAGES[call.verb].call(self.study, call.name)
            ratio = 1.0 if own.config == call.config else by_rule(call) / by_rule(own)
        except (TrilemmaError, ValueError):  # of settings; the stage itself will raise it
            return Cost(OTHER, 0)
        return recorded._replace(seconds=recorded.seconds * ratio)

    def of_command(self, command: str) -> Cost:
        program, stage, name = [*command.split(), "", "", ""][:3]
        if program == "trilemma" and name in entries(self.study).get(stage, ()):
            return self.of(STAGES[stage].call(self.study, name))
        return self.recorded.get((stage, name), Cost(SECONDS.get(stage, OTHER), 0))


def predict(
    params: Path, commands: Iterable[str], parts_of: Callable[[Study, str], list[Part]] | None
) -> PredictedCosts:
    """For a process that has torch, which methods and sweeps import. parts_of: of a sweep, by its name; None: none."""
    study, parts = load_study(params), dict[str, list[Part]]()
    estimates = Estimates(study)
    for command in commands:
        program, verb, sweep = [*command.split(), "", "", ""][:3]
        if parts_of and (program, verb) == ("trilemma", SWEEP):
            with suppress(TrilemmaError):  # the sweep itself will raise it
                parts[command] = parts_of(study, sweep)
    return PredictedCosts({command: estimates.of_command(command) for command in commands}, parts)


def by_rule(call: Call) -> float:
    """Seconds, from steps x batch x players, or images x network calls, and the kind of network."""
    config = build(import_module(stage_module(call.stage)).Config, call.config, call.stage)
    if "sampler" in call.config:
        sampler = call.config["sampler"]
        method = build_method(sampler["method"], sampler["model"])
        calls = _calls(method, build(method.Sampling, sampler["sample"], "sample")) * (1 + len(sampler["guides"]))
        sets = getattr(config, "sample_seeds", 1) * getattr(config, "sets", 1) * len(getattr(config, "starts", "1"))
        return OTHER + config.images * sets * calls * (U_NET_CALL if _has_u_net(method) else CALL)
    if "train" not in call.config:
        return SECONDS.get(call.stage, OTHER)
    method, train = build_method(config.method, config.model), config.train
    models = len(getattr(config, "members", "1")) * getattr(train, "seeds", 1)
    step = U_NET_STEP if _has_u_net(method) else STEP
    return OTHER + models * train.steps * train.batch * len(method.players()) * step


class TimeLeft:
    """When to print the time left, and how long it is, by the pace of what has ended."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.next = self.began + FIRST_NOTE
        self.predicted, self.taken = 0.0, 0.0  # seconds of what has ended

    def note(self, predicted: float, taken: float) -> None:
        self.predicted, self.taken = self.predicted + predicted, self.taken + taken

    def seconds_to_next(self) -> float:
        return max(0.0, self.next - time.monotonic())

    def due(self, left: Iterable[tuple[float, float]], longest: float, jobs: int) -> float | None:
        """None while it is not due. left: seconds predicted, and run so far; longest: those predicted of one chain."""
        now = time.monotonic()
        if now < self.next:
            return None
        self.next = now + min(now - self.began, LONGEST_PAUSE)
        pace = self.taken / self.predicted if self.predicted else 1.0
        work = sum(max(0.0, predicted * pace - run) for predicted, run in left)
        return max(work / jobs, longest * pace)


def time_text(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _has_u_net(method: Any) -> bool:
    networks = (getattr(method, name, "") for name in ("net", "body", "discriminator"))
    return any(kind in network for network in networks for kind in U_NETS)


def _calls(method: Any, sampling: Any) -> int:
    """Of the network, for one image: about as many as steps."""
    if spacing := re.findall(r"\d+", getattr(sampling, "spacing", None) or ""):
        return sum(map(int, spacing))
    counts = (getattr(sampling, "steps", None), getattr(method, "kept", None), getattr(method, "steps", None))
    return next((count for count in counts if isinstance(count, int)), 1)


def _reported(folder: Path) -> dict[tuple[str, ...], Cost]:
    """From the last report, which is committed: a machine without history has it too."""
    file = folder / "reports" / "tables" / "cost.csv"
    if not file.is_file():
        return {}
    costs: dict[tuple[str, ...], Cost] = {}
    with file.open() as lines:
        for row in csv.DictReader(lines):
            seconds = row.get("cpu_seconds") or row["seconds"]
            if seconds and row.get("resumed") != "True":  # the seconds of a resumed one are of its last part
                costs[row["stage"], row["name"]] = Cost(float(seconds), int(float(row["peak_memory_mib"])))
    return costs
