"""`trilemma repro`: `dvc repro` that runs independent stages in parallel.

DVC decides what a stage needs and what has changed, and records what it made. This process alone uses DVC: its
start costs seconds, which a `dvc repro` of every stage would pay again.
"""

import logging
import os
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path

import pandas as pd
import psutil
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.stage import Stage
from dvc.stage.cache import RunCacheNotFoundError
from networkx import DiGraph

from pipeline.config.study import Study, load_study
from pipeline.console import say
from pipeline.dag.child import FORKS, LIBRARIES, Child
from pipeline.dag.resolve import Cost, past_costs
from pipeline.errors import TrilemmaError, UserError
from pipeline.launch.launcher import launcher
from pipeline.launch.signals import GRACE_SECONDS, on_sigterm
from pipeline.store.open import open_store

MIB = 2**20


def reproduce(targets: Sequence[str], jobs: int, workers: int | None, address: str | None) -> None:
    """Run what the targets need, or all of dvc.yaml, `jobs` stages at a time; a failure stops only what needs it."""
    study = load_study(Path.cwd() / "params.yaml")
    workers = study.launch.workers if workers is None else workers
    if workers == 0:
        launcher(workers, address)  # raises the error that every stage would raise
    on_sigterm()
    FORKS.set_forkserver_preload(LIBRARIES)
    logging.getLogger("dvc").setLevel(logging.WARNING)  # otherwise it gives the same advice after every stage
    environment = {"TRILEMMA_WORKERS": str(workers), **({} if address is None else {"TRILEMMA_ADDRESS": address})}
    try:
        with Repo(_wait_for_lock=True) as repo:
            _wait_for_other_runs(Path(repo.tmp_dir or "", "rwlock"))
            graph = get_active_graph(repo.index.graph)
            plan = plan_repro(graph, collect_stages(repo, targets or ["dvc.yaml"]))
            scheduler = Scheduler(repo, graph, plan, _costs(study), environment)
            try:
                scheduler.run(jobs)
            finally:
                scheduler.summarise()
    except DvcException as error:
        raise UserError(f"DVC: {error}") from error
    if failed := scheduler.failed:
        raise TrilemmaError(f"{len(failed)} of {len(plan)} stages failed: {', '.join(failed)}")


class Scheduler:
    """The stages, by name, that wait, are ready, run, or have ended."""

    def __init__(
        self, repo: Repo, graph: DiGraph, plan: list[Stage], costs: Mapping[str, Cost], environment: Mapping[str, str]
    ) -> None:
        self.repo, self.costs, self.environment = repo, costs, environment
        self.began, self.room_mib = time.monotonic(), psutil.virtual_memory().available // MIB
        self.gpus = len(list(Path("/dev").glob("nvidia[0-9]*"))) if "CUDA_VISIBLE_DEVICES" not in os.environ else 0
        self.waiting: dict[str, Stage] = {str(stage.addressing): stage for stage in plan}
        self.needs = {name: {str(one.addressing) for one in graph.successors(it)} for name, it in self.waiting.items()}
        self.chain_seconds: dict[str, float] = {}  # of a stage and the longest chain that needs it
        for name, stage in reversed(self.waiting.items()):  # the plan has every stage after its inputs
            above = [self.chain_seconds.get(str(one.addressing), 0.0) for one in graph.predecessors(stage)]
            self.chain_seconds[name] = costs[_command(stage)].seconds + max(above, default=0.0)
        self.ready: dict[str, Stage] = {}  # changed, with all inputs done
        self.running: dict[Future[int], Child] = {}
        self.ran: dict[str, float] = {}  # seconds
        self.unchanged: set[str] = set()
        self.failed: dict[str, str] = {}  # the reason

    def run(self, jobs: int) -> None:
        """Until no stage runs and none that waits can start."""
        with ThreadPoolExecutor(jobs) as readers:
            try:
                self._start(readers, jobs)
                while self.running:
                    self._finish(wait(self.running, return_when=FIRST_COMPLETED).done)
                    self._start(readers, jobs)
            finally:
                self._stop()

    def _start(self, readers: Executor, jobs: int) -> None:
        """Start the ready stages that fit into memory, those with the longest chain first."""
        while new := [name for name in self.waiting if self.needs[name] <= self.ran.keys() | self.unchanged]:
            with self.repo.lock:
                for name in new:
                    stage = self.waiting.pop(name)
                    if not stage.changed():
                        self.unchanged.add(name)  # may make others ready: repeat
                    elif self._is_restored(stage):
                        self.ran[name] = 0.0
                    else:
                        self.ready[name] = stage
        for name in sorted(self.ready, key=lambda name: -self.chain_seconds[name]):
            needed = [_command(self.ready[name]), *(_command(child.stage) for child in self.running.values())]
            fits = not self.running or sum(self.costs[command].peak_mib for command in needed) <= self.room_mib
            if len(self.running) < jobs and fits:
                slot = min(set(range(jobs)) - {child.slot for child in self.running.values()})
                gpu = {"CUDA_VISIBLE_DEVICES": str(slot % self.gpus)} if self.gpus else {}
                child = Child(self.ready.pop(name), slot, {**self.environment, **gpu})
                self.running[readers.submit(child.print_lines)] = child

    def _is_restored(self, stage: Stage) -> bool:
        """Whether DVC's run cache had the outputs, as after a setting was changed back."""
        stage.remove_outs(ignore_remove=False, force=False)
        try:
            self.repo.stage_cache.restore(stage)
        except RunCacheNotFoundError:
            stage.save_deps()
            return False
        _record(stage)
        return True

    def _finish(self, done: set[Future[int]]) -> None:
        for future in done:
            child, code = self.running.pop(future), future.result()
            with self.repo.lock, child.locks:
                try:
                    if code == 0:
                        _record(child.stage)
                except DvcException as error:
                    code, child.reason = 1, str(error)
            seconds = time.monotonic() - child.began
            print(f"{child.name} | {'failed after' if code else 'done in'} {seconds:.1f} s", flush=True)
            if code == 0:
                self.ran[child.name] = seconds
            else:
                self.failed[child.name] = child.reason or f"exit code {code}"

    def _stop(self) -> None:
        """SIGTERM to the commands of all stages that run; after a while SIGKILL to all of their processes."""
        for child in self.running.values():
            child.terminate()
        deadline = time.monotonic() + 2 * GRACE_SECONDS
        while self.running:
            if time.monotonic() > deadline:
                for child in self.running.values():
                    child.kill()
            self._finish(wait(self.running, 0.1, FIRST_COMPLETED).done)

    def summarise(self) -> None:
        left = [*self.ready, *self.waiting]
        counts = {"ran": self.ran, "unchanged": self.unchanged, "failed": self.failed, "not run": left}
        parts = [f"{len(names)} {what}" for what, names in counts.items() if names]
        work, wall = sum(self.ran.values()), time.monotonic() - self.began
        say(f"repro: {', '.join(parts)}; {work:.0f} s of work in {wall:.0f} s")
        for name, reason in self.failed.items():
            say(f"  failed: {name}: {reason}")
        for name in left:
            failed = sorted(self._failed_below(name))
            say(f"  not run: {name}{', which needs ' if failed else ''}{', '.join(failed)}")

    def _failed_below(self, name: str) -> set[str]:
        below = self.needs.get(name, set())
        return (below & self.failed.keys()).union(*(self._failed_below(one) for one in below))


def _command(stage: Stage) -> str:
    return str(stage.cmd).replace("'", "")  # names are quoted in dvc.yaml


def _record(stage: Stage) -> None:
    """Write what the stage made to dvc.lock and to DVC's caches."""
    stage.save(run_cache=all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs))
    stage.commit()
    stage.dump(update_pipeline=False)


def _wait_for_other_runs(locks: Path) -> None:
    """Wait until no other DVC runs a stage here, as after a killed `trilemma repro`: DVC itself would fail."""
    announced = False
    while locks.is_file() and any(map(psutil.pid_exists, map(int, re.findall(r'"pid": (\d+)', locks.read_text())))):
        if not announced:
            say("waiting for the stages that another DVC runs here")
        announced = True
        time.sleep(0.5)


def _costs(study: Study) -> Mapping[str, Cost]:
    """By command, from the ledger or else from the last report; zero for a stage that never ran."""
    costs = defaultdict[str, Cost](lambda: Cost(0.0, 0))
    reported = study.folder / "reports" / "tables" / "cost.csv"
    if reported.is_file():
        for row in pd.read_csv(reported).dropna(subset=["seconds"]).to_dict("records"):
            costs[f"trilemma {row['stage']} {row['name']}"] = Cost(float(row["seconds"]), int(row["peak_memory_mib"]))
    return costs | {f"trilemma {' '.join(call)}": cost for call, cost in past_costs(open_store(study)).items()}
