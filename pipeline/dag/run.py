"""Runs a call: DVC decides whether to call a stage, the store decides whether to compute it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.config.build import build
from pipeline.config.study import Study, load_study
from pipeline.console import say
from pipeline.context import Launch, RunContext
from pipeline.dag.code_version import CODE, Code, keep_sources
from pipeline.dag.data_summary import data_summary
from pipeline.dag.graph import STAGES, Call, is_imported, stage_module
from pipeline.dag.usage import Meter, circumstances, is_resumable
from pipeline.data.artifacts import OUTSIDE, Artifact, Manifest, read_artifact
from pipeline.errors import UserError
from pipeline.launch.signals import on_sigterm
from pipeline.store.external import external
from pipeline.store.open import open_store
from pipeline.store.publish import new_artifact
from pipeline.store.store import Store

if TYPE_CHECKING:
    from pipeline.tracking.watch import Watch


@dataclass(frozen=True)
class Execution:
    """Where and how calls are executed: a stage's command and the trials of a sweep differ in this alone."""

    study: Study
    store: Store
    inputs: Callable[[Call], Mapping[str, Artifact]]  # called only for a computation
    launch: Callable[[Call], AbstractContextManager[Launch]]
    watch: "Callable[[Call, str, Launch], AbstractContextManager[Watch]]"  # of a call and its key
    computed: Path | None = None  # a folder for computed results by key; None: `call.out`, for stored ones too
    ledger: Mapping[str, str] = field(default_factory=dict)  # additional fields of the ledger's notes


class Finished(NamedTuple):
    """A result in the store."""

    key: str
    manifest: Manifest
    cost: dict[str, Any] | None  # None: it was stored before


def run_stage(verb: str, name: str, workers: int | None = None, address: str | None = None) -> None:
    """The command `trilemma VERB NAME` in a study's folder. workers: None for the study's own number."""
    on_sigterm()
    study = own_study(Path.cwd())
    if verb == "generate" and name in study.guides and is_imported(study, name):
        folder = study.out / verb / name  # DVC wants one
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README").write_text("An imported guide needs no fakes.\n")
        return
    run_call(study, STAGES[verb].call(study, name), study.launch.workers if workers is None else workers, address)


def own_study(folder: Path) -> Study:
    """The study in `folder`. Its results are stored under the version of its own code, so no other may compute them."""
    study = load_study(folder / "params.yaml")
    if study.root != CODE:
        raise UserError(
            f"this trilemma runs the code in {CODE}, and the study's is in {study.root}: install that (pip install -e "
            f"{study.root}), or put it first in PYTHONPATH"
        )
    keep_sources(study.root)
    return study


def run_call(study: Study, call: Call, workers: int = 0, address: str | None = None) -> None:
    """Publish the call's result as `call.out`, with an MLflow run of its own if it is computed."""

    def launch(call: Call) -> AbstractContextManager[Launch]:
        from pipeline.launch.launcher import launcher

        code = Code.of(call.modules, study.root)
        return launcher(workers, address, code.check) if STAGES[call.verb].fans_out else launcher(0, None)

    def watch(call: Call, key: str, launch: Launch) -> "AbstractContextManager[Watch]":
        from pipeline.dag.tracked import open_watch

        return open_watch(study, call, key, launch)

    inputs, store = inputs_of(study, call), open_store(study)
    key = call.key(study.root, {role: artifact.digest for role, artifact in inputs.items()})
    done = finish(call, key, Execution(study, store, lambda call: inputs, launch, watch))
    if done.cost is None:
        store.note(key, circumstances(call) | {"event": "reused"})
        say(f"{call.stage} {call.name}: from the store ({key[:12]})")
    if call.verb == "prepare":
        for line in data_summary(done.manifest.facts):
            say(f"{call.name}: {line}")


def inputs_of(study: Study, call: Call) -> dict[str, Artifact]:
    """Every input, its files checked against its manifest."""
    return external_inputs(study, call) | {role: read_artifact(path) for role, path in call.made.items()}


def external_inputs(study: Study, call: Call) -> dict[str, Artifact]:
    """The inputs that no stage makes."""
    digests = study.root / ".trilemma" / "digests"
    return {role: external(path, digests) for role, path in call.inputs.items() if role == OUTSIDE}


def finish(call: Call, key: str, execution: Execution) -> Finished:
    """Compute the result of `key`, the call's, unless it is stored."""
    store = execution.store

    def stored() -> Manifest | None:
        if execution.computed is not None:
            return store.manifest(key)
        artifact = store.fetch(key, call.out)
        return None if artifact is None else artifact.manifest

    manifest = stored()
    if manifest is None:
        with store.lease(key):
            manifest = stored()  # another process may have computed it while this one waited for the lease
            if manifest is None:
                return _compute(call, key, execution)
    _clean_up(execution.study, call, key, store)
    return Finished(key, manifest, None)


def execute(call: Call, config: Any, inputs: Mapping[str, Artifact], context: RunContext) -> Artifact:
    """Run the stage's function; its artifact as `call.out`."""
    digests = {role: artifact.digest for role, artifact in inputs.items()}
    with new_artifact(call.out, call.stage, call.name, call.config, digests) as draft:
        import_module(stage_module(call.stage)).run(inputs, config, draft, context)
    return draft.artifact


def stage_config(call: Call) -> Any:
    """The call's settings as its stage's `Config`, checked."""
    stage = import_module(stage_module(call.stage))
    return build(stage.Config, call.config, f"params.yaml: {call.stage} {call.name}")


def _clean_up(study: Study, call: Call, key: str, store: Store) -> None:
    """Clean up after a process killed between storing its result and closing its MLflow run or lease."""
    events = [note["event"] for note in store.notes(key) if note["event"] != "reused"]
    if events[-1:] != ["started"]:
        if store.is_leased(key):
            with store.lease(key):  # waits while its owner is alive, and removes the lease of a killed one
                pass
        return
    from pipeline.tracking.mlflow_run import connect

    with store.lease(key):
        connect(study.root)  # closes the runs of killed processes
        store.state(key).clear()
        store.note(key, circumstances(call) | {"event": "tidied"})


def _compute(call: Call, key: str, execution: Execution) -> Finished:
    meter = Meter()
    from pipeline.launch.determinism import reproducible

    store, config, code = execution.store, stage_config(call), Code.of(call.modules, execution.study.root)
    code.check()  # the key is of code that was read before the wait for the lease
    with reproducible(), execution.launch(call) as launch, execution.watch(call, key, launch) as watch:
        state = store.state(key)
        resumed = is_resumable(state)
        words = {"resumed": resumed, **execution.ledger}
        store.note(key, circumstances(call) | {"event": "started"} | words)
        moved = call if execution.computed is None else replace(call, out=execution.computed / key)
        with meter.recording(state, launch):
            artifact = execute(moved, config, execution.inputs(call), RunContext(launch, state, watch))
        code.check()
        watch.settle()  # before the result is stored: from then on no process computes or logs it again
        store.put(key, artifact)
        store.lighten(artifact)
        cost = meter.cost(launch) | watch.noted
        watch.cost(cost)
        watch.finish()
        state.clear()
        done = {"event": "computed", "mlflow_run": watch.spec.run_id}
        store.note(key, circumstances(call) | done | words | cost)  # last: `_clean_up` looks for it
        say(f"{call.stage} {call.name}: computed in {cost['seconds']:.1f} s ({key[:12]})")
        return Finished(key, artifact.manifest, cost)
