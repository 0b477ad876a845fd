"""`trilemma plan`: what every stage will take, by a little of its own work, before any of it runs; and how right the
last predictions were.

What a prediction is of goes by a name that settings alone decide (`identities`): keys are not known before inputs are.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.config.build import pick
from pipeline.config.study import Study, load_study
from pipeline.console import say, table_console
from pipeline.dag.graph import Call, chain, entries
from pipeline.dag.plan_inputs import prepare_cost, stand_in
from pipeline.dag.plan_machine import Start, memory_limit_mib, start_of_stage
from pipeline.dag.plan_probe import Cost, cost_of
from pipeline.dag.resolve import Planned, planned_calls
from pipeline.dag.run import outside, stage_config
from pipeline.data.artifacts import MANIFEST, Artifact, digest_of, parse_manifest
from pipeline.launch.determinism import device_name
from pipeline.store.open import open_store
from pipeline.store.store import Store
from pipeline.sweeps.entry import find_sweep
from pipeline.sweeps.overrides import evaluated
from pipeline.sweeps.trials import trials_of

LAST = {  # the stages that end what is made for an entry, by the part of params.yaml that it is under
    "datasets": "immune",
    "runs": "evaluate",
    "classifiers": "classify",
    "guides": "discriminate",
    "guided": "evaluate",
    "translations": "translate",
    "stacks": "appraise",
    "toys": "toys",
}
OF_STEPS = ("classify", "discriminate")  # stages that take their steps, and little else
LONG_SECONDS = 20.0  # stages below are mostly the start of their process


def plan(folder: Path, target: str | None, limit_mib: float | None) -> dict[str, Any]:
    """What `--json` prints. target: an entry of params.yaml, or None: all. limit_mib: instead of the machine's."""
    study = load_study(folder / "params.yaml")
    return predict(study, _chains(study, target), limit_mib)


def predict(study: Study, chains: Iterable[tuple[Study, list[Call]]], limit_mib: float | None = None) -> dict[str, Any]:
    """Of these chains of calls (see `dag.chain`), the study's own or those of trials."""
    store = open_store(study)
    planned = planned_calls(chains, store)
    limit = memory_limit_mib() if limit_mib is None else limit_mib
    with tempfile.TemporaryDirectory() as temporary:
        planner = _Planner(store, planned, Path(temporary), limit)
        stages = [planner.row(name) for name in planned]
    run = [row for row in stages if row["state"] == "run"]
    return {
        "device": device_name(),
        "memory_limit_mib": round(limit),
        "stages": stages,
        "total": {
            name: sum(row[name] or 0 for row in run)
            for name in ("cpu_seconds", "gpu_seconds", "flops", "evaluations", "disk_mib")
        },
        "does_not_fit": [f"{row['stage']} {row['name']}" for row in run if not row["fits"]],
        "past": _past(store, planned),
    }


def _chains(study: Study, target: str | None) -> list[tuple[Study, list[Call]]]:
    if target is None:
        found = [(study, chain(study, stage, name)) for stage, names in entries(study).items() for name in names]
        return found + [trial for name in study.sweeps for trial in _trials(study, name)]
    known = {name: kind for kind in LAST for name in getattr(study, kind)}
    pick(known | dict.fromkeys(study.sweeps, "sweeps"), target, "entry")
    found = [(study, chain(study, stage, target)) for kind, stage in LAST.items() if target in getattr(study, kind)]
    return found + (_trials(study, target) if target in study.sweeps else [])


def _trials(study: Study, sweep: str) -> list[tuple[Study, list[Call]]]:
    trials = trials_of(study, find_sweep(study, sweep, None, None, None), f"sweeps.{sweep}")
    return [(trial.study, evaluated(trial.study, trial.point.of)) for trial in trials]


class _Planner:
    """Tries each configuration once, however many stages have it."""

    def __init__(self, store: Store, planned: Mapping[str, Planned], folder: Path, limit_mib: float) -> None:
        self.store, self.planned, self.folder, self.limit_mib = store, planned, folder, limit_mib
        self.artifacts: dict[str, Artifact] = {}
        self.costs: dict[str, Cost] = {}

    @cached_property
    def start(self) -> Start:
        return start_of_stage(self.folder)

    def row(self, name: str) -> dict[str, Any]:
        found = self.planned[name]
        about = {"stage": found.call.stage, "name": found.call.name, "key": found.key}
        if found.manifest is not None:
            return about | {"state": "reused", "cpu_seconds": 0.0, "gpu_seconds": 0.0}
        start = self.start
        cost = self._cost(found)
        on_gpu = cost.spent.gpu > 0
        mib = cost.mib + (0.0 if on_gpu else start.mib)
        row = {
            "cpu_seconds": round(cost.spent.cpu + start.cpu_seconds, 2),
            "gpu_seconds": round(cost.spent.gpu, 2),
            "flops": cost.flops,
            "evaluations": cost.evaluations,
            "memory_mib": round(mib),
            "disk_mib": round(2 * cost.disk_mib, 2),  # in out/ and in the store
        }
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self.store.note(name, about | row | {"event": "planned", "time": when, "device": device_name()})
        return about | {"state": "run"} | row | {"fits": mib <= self.limit_mib}

    def _cost(self, found: Planned) -> Cost:
        """Of guides that differ in their steps, one is tried."""
        call, train = found.call, found.call.config.get("train", {})
        steps = stage_config(call).train.steps if call.stage in OF_STEPS else 1
        free = ("seed", "steps") if call.stage in OF_STEPS else ("seed",)
        config = call.config | {"train": {key: value for key, value in train.items() if key not in free}}
        dataset = found.study.datasets.get(call.dataset)
        alike = digest_of([call.stage, config, None if dataset is None else asdict(dataset)])
        if alike not in self.costs:
            say(f"plan: trying {call.stage} {call.name}")
            self.costs[alike] = self._tried(found).times(1 / steps)
        return self.costs[alike].times(steps)

    def _tried(self, found: Planned) -> Cost:
        inputs = self._inputs(found)
        if found.call.stage == "prepare":
            return prepare_cost(found.call, inputs, self.folder / "prepared" / found.call.name)
        return cost_of(found.call, inputs, self.limit_mib - self.start.mib)

    def _inputs(self, found: Planned) -> dict[str, Artifact]:
        made = {role: self._artifact(name) for role, name in found.made_of.items()}
        return outside(found.study, found.call) | made

    def _artifact(self, name: str) -> Artifact:
        """The result, or what stands in for it."""
        if name not in self.artifacts:
            found = self.planned[name]
            real = None if found.manifest is None or found.key is None else self._real(found, found.key)
            self.artifacts[name] = real or stand_in(found.call, self._inputs(found), self.folder / name)
        return self.artifacts[name]

    def _real(self, found: Planned, key: str) -> Artifact | None:
        file = found.call.out / MANIFEST
        if file.is_file() and (manifest := parse_manifest(file.read_bytes(), file)) == found.manifest:
            return Artifact(found.call.out, manifest, manifest.digest)
        return self.store.fetch(key, self.folder / key)


def _past(store: Store, planned: Mapping[str, Planned]) -> dict[str, Any]:
    """Predictions beside what the same work took, where it was neither resumed nor elsewhere."""
    stages = list(_compared(store, planned))
    errors = {
        which: [abs(row["error"]) for row in stages if row["measured"] > least]
        for which, least in (("median_error", 0.0), ("median_error_long", LONG_SECONDS))
    }
    return {"stages": stages} | {which: round(median(found), 3) if found else None for which, found in errors.items()}


def _compared(store: Store, planned: Mapping[str, Planned]) -> Iterator[dict[str, Any]]:
    for name, found in planned.items():
        notes = store.notes(found.key) if found.manifest is not None and found.key is not None else []
        done = [note for note in notes if note["event"] == "computed" and not note["resumed"] and note["cpu_seconds"]]
        if not done:
            continue
        took = done[-1]
        said = [note for note in store.notes(name) if note["time"] <= took["time"] and note["device"] == took["device"]]
        if said:
            predicted, measured = said[-1]["cpu_seconds"], took["cpu_seconds"]
            yield {
                "stage": found.call.stage, "name": found.call.name, "predicted": predicted, "measured": measured,
                "error": round(predicted / measured - 1, 3),
                "memory_predicted_mib": said[-1]["memory_mib"], "memory_measured_mib": took["peak_memory_mib"],
            }  # fmt: skip


def print_plan(found: Mapping[str, Any]) -> None:
    """For people."""
    from rich.table import Table

    table = Table("stage", "name", "CPU s", "GPU s", "evals", "FLOP", "MiB", "MiB disk", "", box=None)
    alike = Counter(_cells(row) for row in found["stages"])
    for cells, times in alike.items():
        table.add_row(*cells[:-1], f"{times} times {cells[-1]}" if times > 1 else cells[-1])
    table_console().print(table)
    total = found["total"]
    print(
        f"together {total['cpu_seconds']:.0f} CPU seconds, {total['gpu_seconds']:.0f} GPU seconds, "
        f"{total['disk_mib']:.0f} MiB of disk"
    )
    if found["does_not_fit"]:
        print(f"beyond the {found['memory_limit_mib']} MiB there are: {', '.join(found['does_not_fit'])}")
    past = found["past"]
    if past["stages"]:
        long = past["median_error_long"]
        above = "" if long is None else f"; {100 * long:.0f} % on those above {LONG_SECONDS:.0f} s"
        error = 100 * past["median_error"]
        print(f"{len(past['stages'])} earlier predictions were off by {error:.0f} % of CPU seconds (median){above}")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = [f"{row[name]:.2g}" if row.get(name) else "" for name in ("gpu_seconds", "evaluations", "flops")]
    sizes = [f"{row[name]:.0f}" if name in row else "" for name in ("memory_mib", "disk_mib")]
    state = "stored" if row["state"] == "reused" else "" if row["fits"] else "too large"
    return (row["stage"], row["name"], f"{row['cpu_seconds']:.0f}", *numbers, *sizes, state)
