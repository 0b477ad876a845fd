"""`trilemma plan`: which stages are stored and which have to be computed, with the seconds and memory they need.

Both are those of the last computation in the ledger. A training or a sampling that never ran is timed: its own loop
runs for a few seconds in a process of its own; an untrained network stands in for one that is not stored.
"""

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from pipeline.config.build import build_method, pick
from pipeline.config.study import Study
from pipeline.console import say
from pipeline.context import RunContext
from pipeline.dag.graph import STAGES, Call, chain, entries, stage_module
from pipeline.dag.resolve import Cost, Planned, past_costs, planned_calls
from pipeline.dag.run import outside, stage_config
from pipeline.data.artifacts import Artifact
from pipeline.errors import TrilemmaError, UserError
from pipeline.launch.determinism import reproducible
from pipeline.launch.launcher import InProcess
from pipeline.store.open import open_store
from pipeline.store.publish import new_artifact
from pipeline.store.store import Store

TIMED = ("stack", "generate", "sample")  # beside trainings
TRIAL_SECONDS = 5.0


def plan(study: Study, target: str | None, more: Iterable[tuple[Study, list[Call]]] = ()) -> list[dict[str, Any]]:
    """A row per stage, each after its inputs. target: an entry, or None for all of them; more: chains of a sweep."""
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
    stage = import_module(stage_module(call.stage))
    with TemporaryDirectory() as folder, reproducible():
        here = Path(folder)
        inputs = {role: _artifact(made, planned, Store(store), here) for role, made in made_of.items()}
        context = RunContext(cast(Any, Trial()), Store(f"{folder}/store").state("trial"), cast(Any, Unwatched()))
        began = time.perf_counter()
        try:
            with new_artifact(here / "out", call.stage, call.name, call.config, {}) as draft:
                stage.run(outside(study, call) | inputs, stage_config(call), draft, context)
            seconds = time.perf_counter() - began  # of a stage that takes no longer
        except Measured as measured:
            (seconds,) = measured.args
    return Cost(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def _artifact(name: str, planned: Mapping[str, Planned], store: Store, folder: Path) -> Artifact:
    """The stored result, or an untrained network in its place."""
    _, call, made_of, key, manifest = planned[name]
    if manifest is not None and key is not None and (stored := store.fetch(key, folder / name)):
        return stored
    if not STAGES[call.verb].trains:
        raise UserError(f"{call.stage} {call.name} has not run: run it first (trilemma {call.stage} {call.name})")
    from methods.core.loop import TrainState  # here: where all stages are stored, torch is not imported
    from pipeline.training.networks import data_spec, save_weights

    facts = _artifact(made_of["data"], planned, store, folder).manifest.facts
    method = build_method(call.config["method"], call.config["model"])
    weights = TrainState.fresh(method, data_spec(facts), 0).weights(method.players())
    with new_artifact(folder / name, call.stage, call.name, call.config, {}) as draft:
        save_weights(draft.path, {net: of for net, of in weights.items() if net not in call.inputs})  # but its trunk
        draft.facts.update({fact: facts[fact] for fact in ("shape", "classes", "std")}, steps=0)
    return draft.artifact


class Measured(Exception):
    """Ends a trial; its argument is the seconds of the complete work."""


@dataclass
class Clock:
    """Batches that end the training after a few seconds; the first step, which warms up, does not count."""

    batches: Callable[..., Any]
    steps: int
    marks: list[float] = field(default_factory=list)

    def __call__(self, *which: int) -> Any:
        """which: the step; in a stack the training seed before it."""
        if which[-1] == len(self.marks):
            self.marks.append(time.perf_counter())
            counted = len(self.marks) - 2
            if counted > 0 and self.marks[-1] - self.marks[0] > TRIAL_SECONDS:
                raise Measured((self.marks[-1] - self.marks[1]) / counted * self.steps)
        return self.batches(*which)


class Trial:
    """A launcher that ends after a few seconds of the loop, or of the items, that it is given."""

    workers = 0

    def fit(self, loop: Any, job: Any, *others: Any) -> Any:
        return InProcess().fit(loop, replace(job, batches=Clock(job.batches, job.steps)), *others)

    def fit_each(self, loop: Any, items: Sequence[Any]) -> Iterator[Any]:
        """Trainings of a stack, which are taken to be alike."""
        timed = [replace(item, batches=Clock(item.batches, item.train.steps * len(items))) for item in items]
        return InProcess().fit_each(loop, timed)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        began = time.perf_counter()
        for count, item in enumerate(items, 1):
            yield function(item)
            if (seconds := time.perf_counter() - began) > TRIAL_SECONDS:
                raise Measured(seconds / count * len(items))


class Unwatched:
    """A watch that ignores everything."""

    @contextmanager
    def opened(self) -> Any:
        yield self

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *received: None
