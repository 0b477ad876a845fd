"""`trilemma repro`: `dvc repro` that runs independent stages in parallel.

DVC decides what a stage needs and what has changed. A changed stage is run by a `dvc repro --single-item` of its own;
otherwise DVC would lock the inputs of a stage as if it wrote them, and other stages that need them would fail.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.stage import Stage
from networkx import DiGraph

from pipeline.config.study import Study, load_study
from pipeline.console import say
from pipeline.dag.resolve import Cost, past_costs
from pipeline.errors import TrilemmaError, UserError
from pipeline.launch.launcher import launcher
from pipeline.launch.signals import GRACE_SECONDS, on_sigterm
from pipeline.store.open import open_store

DVC = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item")
DVC_HINTS = (
    "Running stage", "Generating lock file", "Updating lock file", "To track the changes", "\tgit add",
    "To enable auto staging", "\tdvc config", "Use `dvc push`",
)  # fmt: skip
MIB = 2**20


def reproduce(targets: Sequence[str], jobs: int, workers: int | None, address: str | None) -> None:
    """Run what the targets need, or all of dvc.yaml, `jobs` stages at a time; a failure stops only what needs it."""
    study = load_study(Path.cwd() / "params.yaml")
    workers = study.launch.workers if workers is None else workers
    if workers == 0:
        launcher(workers, address)  # raises the error that every stage would raise
    on_sigterm()
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
            self.chain_seconds[name] = costs[str(stage.cmd)].seconds + max(above, default=0.0)
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
                    if stage.changed():
                        self.ready[name] = stage
                    else:
                        self.unchanged.add(name)  # may make others ready: repeat
        for name in sorted(self.ready, key=lambda name: -self.chain_seconds[name]):
            needed = [str(self.ready[name].cmd), *(child.command for child in self.running.values())]
            fits = not self.running or sum(self.costs[command].peak_mib for command in needed) <= self.room_mib
            if len(self.running) < jobs and fits:
                slot = min(set(range(jobs)) - {child.slot for child in self.running.values()})
                gpu = {"CUDA_VISIBLE_DEVICES": str(slot % self.gpus)} if self.gpus else {}
                child = Child(self.ready.pop(name), slot, {**os.environ, **self.environment, **gpu})
                self.running[readers.submit(child.print_lines)] = child

    def _finish(self, done: set[Future[int]]) -> None:
        for future in done:
            child, code = self.running.pop(future), future.result()
            seconds = time.monotonic() - child.began
            print(f"{child.name} | {'failed after' if code else 'done in'} {seconds:.1f} s", flush=True)
            if code == 0:
                self.ran[child.name] = seconds
            else:
                self.failed[child.name] = child.reason or f"dvc repro ended with {code}"

    def _stop(self) -> None:
        """SIGTERM to the commands of all stages that run: their DVCs then release their locks. Later SIGKILL to all."""
        deadline, terminated = time.monotonic() + 2 * GRACE_SECONDS, set[psutil.Process]()
        while self.running:
            for child in self.running.values():
                if time.monotonic() > deadline:
                    os.killpg(child.process.pid, signal.SIGKILL)
                    continue
                with suppress(psutil.NoSuchProcess):
                    for process in _commands(psutil.Process(child.process.pid)) - terminated:
                        terminated.add(process)
                        process.terminate()
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


class Child:
    """A `dvc repro` of one stage."""

    def __init__(self, stage: Stage, slot: int, environment: Mapping[str, str]) -> None:
        self.name, self.command, self.slot = str(stage.addressing), str(stage.cmd), slot
        self.began, self.reason = time.monotonic(), ""
        self.process = subprocess.Popen(
            [*DVC, self.name],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process alone, and `_stop` ends the stages
        )

    def print_lines(self) -> int:
        """Print the lines of the process after the stage's name, until it ends; its exit code."""
        assert self.process.stdout is not None
        before = ""
        for line in self.process.stdout:
            text = line.rstrip()
            if text and not text.startswith(DVC_HINTS):
                print(f"{self.name} | {text}", flush=True)
                if text.startswith("ERROR: ") and not self.reason:  # DVC's, after the last line of the stage
                    self.reason = before if before.startswith("trilemma: ") else text
                before = text
        return self.process.wait()


def _commands(dvc: psutil.Process) -> set[psutil.Process]:
    """The commands that DVC runs; not a shell above one, whose end would leave the command running and locks held."""
    commands = set[psutil.Process]()
    for process in dvc.children():
        is_shell = process.cmdline()[-2:-1] == ["-c"]
        commands |= set(process.children() if is_shell else []) or {process}
    return commands


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
