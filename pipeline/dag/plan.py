"""`trilemma plan`: which stages are stored and which have to be computed, with the seconds and memory they need.

Both come from the last computation in the ledger. A training or a sampling that never ran is timed: its loop runs for a
few seconds in a separate process, with an untrained network where the trained one is not stored.
"""

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from pipeline.config.build import build_method, pick
from pipeline.config.study import Study
from pipeline.console import say
from pipeline.context import RunContext
from pipeline.dag.graph import STAGES, Call, chain, entries
from pipeline.dag.resolve import Cost, Planned, past_costs, planned_calls
from pipeline.dag.run import execute, external_inputs, stage_config
from pipeline.data.artifacts import Artifact
from pipeline.errors import TrilemmaError, UserError
from pipeline.launch.determinism import reproducible
from pipeline.launch.launcher import InProcess
from pipeline.store.open import open_store
from pipeline.store.publish import new_artifact
from pipeline.store.store import Store

TIMED = ("stack", "generate", "sample")  # stages, beside trainings
TRIAL_SECONDS = 5.0


def plan(study: Study, target: str | None, more: Iterable[tuple[Study, list[Call]]] = ()) -> list[dict[str, Any]]:
    """A row per stage, each after its inputs. target: an entry, or None for all entries; more: chains of sweeps."""
    every = [(stage, name) for stage, names in entries(study).items() for name in names]
    if target is not None:
        pick(dict.fromkeys([*(name for _, name in every), *study.sweeps]), target, "entry")
    calls = [(stage, name) for stage, name in every if target in (None, name)]
    chains = [*((study, chain(study, stage, name)) for stage, name in calls), *more]
    store = open_store(study)
    planned, costs = planned_calls(chains, store), past_costs(store)
    return [_row(name, planned, costs, store) for name in planned]


def _row(name: str, planned: dict[str, Planned], costs: dict[tuple[str, ...], Cost], store: Store) -> dict[str, Any]:
    _, call, _, key, manifest = planned[name]
    cost, source = costs.get((call.stage, call.name)), "ledger"
    if cost is None and manifest is None and (STAGES[call.verb].trains or call.stage in TIMED):
        say(f"plan: timing {call.stage} {call.name}")
        try:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                cost, source = process.submit(timed, name, planned, store.uri).result(), "trial"
        except (TrilemmaError, ValueError, RuntimeError) as error:  # RuntimeError: out of memory, or killed for it
            say(f"plan: {call.stage} {call.name} cannot be timed: {error}")
    if cost is None:
        cost, source = costs.get((call.stage,)), "median of the stage"
    state = "to compute" if manifest is None else "stored"
    row = {"stage": call.stage, "name": call.name, "key": key, "state": state}
    seconds, mib = (None, None) if cost is None else (round(cost.seconds, 2), round(cost.peak_mib))
    return row | {"seconds": seconds, "memory_mib": mib, "source": None if cost is None else source}


def timed(name: str, planned: Mapping[str, Planned], store: str) -> Cost:
    """Run a stage's loop for a few seconds in this process."""
    study, call, made_of, _, _ = planned[name]
    with TemporaryDirectory() as folder, reproducible():
        here = Path(folder)
        inputs = {role: _artifact(made, planned, Store(store), here) for role, made in made_of.items()}
        state = Store(f"{folder}/store").state("trial")
        context = RunContext(cast(Any, TimedLaunch()), state, cast(Any, Unwatched()))
        began = time.perf_counter()
        try:
            call = replace(call, out=here / "out")
            execute(call, stage_config(call), external_inputs(study, call) | inputs, context)
            seconds = time.perf_counter() - began  # the stage ended within the time of a trial
        except Extrapolated as end:
            (seconds,) = end.args
    return Cost(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def _artifact(name: str, planned: Mapping[str, Planned], store: Store, folder: Path) -> Artifact:
    """The stored result; of a training without one, an untrained network."""
    _, call, made_of, key, manifest = planned[name]
    if manifest is not None and key is not None and (stored := store.fetch(key, folder / name)):
        return stored
    if not STAGES[call.verb].trains:
        raise UserError(f"{call.stage} {call.name} has not run: run it first (trilemma {call.stage} {call.name})")
    from methods.core.loop import TrainState  # torch is not needed where all stages are stored
    from pipeline.training.networks import data_facts, data_spec, save_weights

    data = data_spec(_artifact(made_of["data"], planned, store, folder).manifest.facts)
    method = build_method(call.config["method"], call.config["model"])
    weights = TrainState.fresh(method, data, 0).weights(method.players())
    with new_artifact(folder / name, call.stage, call.name, call.config, {}) as draft:
        save_weights(draft.path, {net: tensors for net, tensors in weights.items() if net not in call.inputs})
        draft.facts.update(data_facts(data), steps=0)
    return draft.artifact


class Extrapolated(Exception):
    """Ends a timed trial; its argument is the estimated seconds of the complete work."""


@dataclass
class Clock:
    """Batches that end the training after a few seconds; the first step warms up and is not counted."""

    batches: Callable[..., Any]
    steps: int
    marks: list[float] = field(default_factory=list)

    def __call__(self, *position: int) -> Any:
        """position: the step; in a stack, the training seed and the step."""
        if position[-1] == len(self.marks):
            self.marks.append(time.perf_counter())
            counted = len(self.marks) - 2
            if counted > 0 and self.marks[-1] - self.marks[0] > TRIAL_SECONDS:
                raise Extrapolated((self.marks[-1] - self.marks[1]) / counted * self.steps)
        return self.batches(*position)


class TimedLaunch:
    """A launcher that ends a loop, or a map over items, after a few seconds."""

    workers = 0

    def fit(self, loop: Any, job: Any, *others: Any) -> Any:
        return InProcess().fit(loop, replace(job, batches=Clock(job.batches, job.steps)), *others)

    def fit_each(self, loop: Any, items: Sequence[Any]) -> Iterator[Any]:
        """Trainings of a stack, assumed to take the same time each."""
        timed = [replace(item, batches=Clock(item.batches, item.train.steps * len(items))) for item in items]
        return InProcess().fit_each(loop, timed)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        began = time.perf_counter()
        for count, item in enumerate(items, 1):
            yield function(item)
            if (seconds := time.perf_counter() - began) > TRIAL_SECONDS:
                raise Extrapolated(seconds / count * len(items))


class Unwatched:
    """A watch that ignores everything."""

    @contextmanager
    def opened(self) -> Any:
        yield self

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *received: None
