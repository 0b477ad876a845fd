"""Runs one stage: DVC decides whether to call, the store decides whether to compute."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.build import build
from pipeline.config.study import Study, load_study
from pipeline.console import say
from pipeline.context import Launch, RunContext
from pipeline.dag.graph import STAGES, Call, stage_module
from pipeline.dag.usage import Meter
from pipeline.data.artifacts import OUTSIDE, Artifact, read_artifact
from pipeline.errors import UserError
from pipeline.launch.signals import on_sigterm
from pipeline.store.external import external
from pipeline.store.open import open_store
from pipeline.store.publish import new_artifact
from pipeline.store.store import Store

if TYPE_CHECKING:
    from pipeline.tracking.watch import Watch


CODE = Path(__file__).resolve().parents[2]  # that runs here


def run_stage(verb: str, name: str, workers: int | None = None, address: str | None = None) -> None:
    """What `trilemma VERB NAME` does, in the folder of a study. workers: None for what the study is meant for."""
    on_sigterm()
    study = own_study(Path.cwd())
    call = STAGES[verb].call(study, name)
    run_call(study, call, open_store(study), study.launch.workers if workers is None else workers, address)


def own_study(folder: Path) -> Study:
    """The study in `folder`, whose results are filed under the version of its code: no other may compute them."""
    study = load_study(folder / "params.yaml")
    if study.root != CODE:
        raise UserError(
            f"this trilemma runs the code in {CODE}, and the study's is in {study.root}: install that (pip install -e "
            f"{study.root}), or put it first in PYTHONPATH"
        )
    return study


def run_call(study: Study, call: Call, store: Store, workers: int = 0, address: str | None = None) -> None:
    """Leave the call's result in `call.out`: from the store, or computed and kept there."""
    inputs = inputs_of(study, call)
    key = call.key(study.root, {role: artifact.digest for role, artifact in inputs.items()})
    if not store.fetch(key, call.out):
        with store.lease(key):
            if not store.fetch(key, call.out):  # somebody else may have finished it while we waited
                _compute(study, call, key, store, inputs, workers, address)
                return
    tidy_up(study.root, call, key, store)
    store.note(key, _circumstances(call) | {"event": "reused"})
    say(f"{call.stage} {call.name}: from the store ({key[:12]})")


def inputs_of(study: Study, call: Call) -> dict[str, Artifact]:
    """What the call reads, checked."""
    return outside(study, call) | {role: read_artifact(path) for role, path in call.made.items()}


def outside(study: Study, call: Call) -> dict[str, Artifact]:
    """What it reads that no call made."""
    digests = study.root / ".trilemma" / "digests"
    return {role: external(path, digests) for role, path in call.inputs.items() if role == OUTSIDE}


def tidy_up(root: Path, call: Call, key: str, store: Store) -> None:
    """Whoever computed a result may have died after storing it, before closing its run or giving back its lease."""
    events = [note["event"] for note in store.notes(key) if note["event"] != "reused"]
    if events[-1:] != ["started"]:
        if store.is_leased(key):
            with store.lease(key):  # waits, if its owner lives after all, and gives back what a dead one held
                pass
        return
    from pipeline.tracking.mlflow_run import connect

    with store.lease(key):
        connect(root)  # closes the runs of the dead
        store.state(key).clear()
        store.note(key, _circumstances(call) | {"event": "tidied"})


def _compute(
    study: Study,
    call: Call,
    key: str,
    store: Store,
    inputs: dict[str, Artifact],
    workers: int,
    address: str | None,
) -> None:
    meter = Meter()
    from pipeline.dag.tracked import open_watch
    from pipeline.launch.determinism import reproducible
    from pipeline.launch.launcher import launcher

    if not STAGES[call.verb].fans_out:
        workers, address = 0, None
    config = stage_config(call)
    with reproducible(), launcher(workers, address) as launch, open_watch(study, call, key, _commit(), launch) as watch:
        compute(call, config, key, store, inputs, meter, launch, watch, {})


def stage_config(call: Call) -> Any:
    """The call's settings as its stage's `Config`, checked."""
    stage = import_module(stage_module(call.stage))
    return build(stage.Config, call.config, f"params.yaml: {call.stage} {call.name}")


def compute(
    call: Call,
    config: Any,
    key: str,
    store: Store,
    inputs: Mapping[str, Artifact],
    meter: "Meter",
    launch: Launch,
    watch: "Watch",
    told: Mapping[str, str],
) -> dict[str, Any]:
    """Run the stage, into `call.out` and the store; what it cost. told: further words for the ledger."""
    state = store.state(key)
    resumed = bool(state.names())
    store.note(key, _circumstances(call) | {"event": "started", "resumed": resumed, **told})
    with new_artifact(
        call.out,
        stage=call.stage,
        name=call.name,
        config=call.config,
        inputs={role: artifact.digest for role, artifact in inputs.items()},
    ) as draft:
        import_module(stage_module(call.stage)).run(inputs, config, draft, RunContext(launch, state, watch))
    watch.settle()  # once the result is stored, nobody computes, or logs, it again
    store.put(key, draft.artifact)
    store.lighten(draft.artifact)
    cost = meter.cost(launch) | watch.noted
    watch.cost(cost)
    watch.finish()
    state.clear()
    done = {"event": "computed", "resumed": resumed, "mlflow_run": watch.spec.run_id, **told}
    store.note(key, _circumstances(call) | done | cost)  # last: see `tidy_up`
    say(f"{call.stage} {call.name}: computed in {cost['seconds']:.1f} s ({key[:12]})")
    return cost


def _circumstances(call: Call) -> dict[str, Any]:
    return {
        "stage": call.stage,
        "name": call.name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The checked-out commit, or the one a job was submitted from; None where there is no git."""
    if submitted := os.environ.get("TRILEMMA_COMMIT"):
        return submitted
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None
