"""`trilemma repro`: `dvc repro` that runs independent stages in parallel.

DVC decides what a stage needs and what has changed, and records what it made. This process alone uses DVC: its
start costs seconds, which a `dvc repro` of every stage would pay again.
"""

import logging
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

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
from pipeline.dag.estimates import SWEEP, PredictedCosts, TimeLeft, predict, time_text
from pipeline.dag.graph import STAGES
from pipeline.dag.resolve import Cost, Part
from pipeline.errors import TrilemmaError, UserError
from pipeline.launch.launcher import launcher
from pipeline.launch.signals import GRACE_SECONDS, on_sigterm

MIB = 2**20
LOCK_FILE_SECONDS = 10.0  # between two writings, at least


def reproduce(
    targets: Sequence[str],
    jobs: int,
    workers: int | None,
    address: str | None,
    parts_of: Callable[[Study, str], list[Part]],
) -> None:
    """Run what the targets need, or all of dvc.yaml, `jobs` stages at a time; a failure stops only what needs it.

    parts_of: the parts of a sweep (its name), which run beside the stages.
    """
    study = load_study(Path.cwd() / "params.yaml")
    workers = study.launch.workers if workers is None else workers
    if workers == 0:
        launcher(workers, address)  # raises the error that every stage would raise
    on_sigterm()
    FORKS.set_forkserver_preload(LIBRARIES)
    logging.getLogger("dvc").setLevel(logging.WARNING)  # otherwise it gives the same advice after every stage
    environment = {"TRILEMMA_WORKERS": str(workers), **({} if address is None else {"TRILEMMA_ADDRESS": address})}
    has_parts = workers == 0 and os.environ.get("TRILEMMA_CONCURRENT", "0") == "0"  # else trials are Ray's
    try:
        with Repo(_wait_for_lock=True) as repo:
            _wait_for_other_runs(Path(repo.tmp_dir or "", "rwlock"))
            graph = get_active_graph(repo.index.graph)
            plan = plan_repro(graph, collect_stages(repo, targets or ["dvc.yaml"]))
            if not targets:
                plan = [stage for stage in plan if is_read(_command(stage), study)]

            def predicted(commands: Mapping[str, str]) -> PredictedCosts:
                verbs = {verb for command in commands.values() for verb in command.split()[1:2]}
                arguments = (study.file, list(commands.values()), parts_of if has_parts else None)
                if verbs.isdisjoint([*STAGES, SWEEP]):
                    return predict(*arguments)
                with ProcessPoolExecutor(1, FORKS) as process:
                    return process.submit(predict, *arguments).result()

            scheduler = Scheduler(repo, graph, plan, predicted, environment, jobs)
            try:
                scheduler.run()
            finally:
                scheduler.summarise()
    except DvcException as error:
        raise UserError(f"DVC: {error}") from error
    if failed := scheduler.failed:
        raise TrilemmaError(f"{len(failed)} of {len(plan)} stages failed: {', '.join(failed)}")


class Scheduler:
    """The stages, and the parts of stages, by name, that wait, are ready, run, or have ended."""

    def __init__(
        self,
        repo: Repo,
        graph: DiGraph,
        plan: list[Stage],
        predicted: Callable[[Mapping[str, str]], PredictedCosts],
        environment: Mapping[str, str],
        jobs: int,
    ) -> None:
        """predicted: costs and parts, by the commands of stages; called once, if there is anything to run."""
        self.repo, self.predicted, self.environment, self.jobs = repo, predicted, environment, jobs
        self.began, self.room_mib = time.monotonic(), psutil.virtual_memory().available // MIB
        self.gpus = len(list(Path("/dev").glob("nvidia[0-9]*"))) if "CUDA_VISIBLE_DEVICES" not in os.environ else 0
        self.stages: dict[str, Stage] = {str(stage.addressing): stage for stage in plan}  # after their inputs
        inputs = {name: {str(one.addressing) for one in graph.successors(it)} for name, it in self.stages.items()}
        self.needs = {name: needs & self.stages.keys() for name, needs in inputs.items()}
        self.parts: dict[str, Part] = {}  # `stages` has the stage of each, too
        self.costs: dict[str, Cost] = {}
        self.chain_seconds: dict[str, float] = {}  # of a stage and the longest chain that needs it
        self.waiting = list(self.stages)
        self.ready: list[str] = []  # changed, with all inputs done
        self.running: dict[Future[int], Child] = {}
        self.ran: dict[str, float] = {}  # seconds
        self.unchanged: set[str] = set()
        self.failed: dict[str, str] = {}  # the reason
        self.left, self.lock_file = TimeLeft(), LockFile()

    def run(self) -> None:
        """Until no stage runs and none that waits can start."""
        with ThreadPoolExecutor(self.jobs) as readers:
            try:
                self._find_ready()
                if self.ready:
                    self._predict()
                    self._find_ready()
                self._start(readers)
                while self.running:
                    self._finish(wait(self.running, self.left.seconds_to_next(), FIRST_COMPLETED).done)
                    self._find_ready()
                    self._start(readers)
                    self._print_time_left()
            finally:
                self._stop()
                with self.repo.lock:
                    self.lock_file.write()

    def _predict(self) -> None:
        """Costs of all that is left, and the parts of sweeps among it."""
        left = [*self.ready, *self.waiting]
        commands = {name: _command(self.stages[name]) for name in left}
        costs, parts = self.predicted(commands)
        self.costs = {name: costs[command] for name, command in commands.items()}
        maker = {Path(out.fs_path): name for name in left for out in self.stages[name].outs}
        for command, own in parts.items():
            stage = next(name for name in left if commands[name] == command)
            if stage in self.ready:  # until its parts are done
                self.ready.remove(stage)
                self.waiting.append(stage)
            for part in own:
                self.parts[part.name], self.stages[part.name] = part, self.stages[stage]
                self.costs[part.name] = part.cost
                self.needs[part.name] = {maker[out] for out in part.needs if out in maker} | part.after
                self.needs[stage].add(part.name)
                self.waiting.append(part.name)
        users = defaultdict[str, list[str]](list)
        for name in self.costs:
            for needed in self.needs[name]:
                users[needed].append(name)

        @cache
        def chain_seconds(name: str) -> float:
            return self.costs[name].seconds + max(map(chain_seconds, users[name]), default=0.0)

        self.chain_seconds = {name: chain_seconds(name) for name in self.costs}

    def _find_ready(self) -> None:
        """Those that wait no longer: DVC finds them unchanged, or they are ready."""
        while new := [name for name in self.waiting if self.needs[name] <= self.ran.keys() | self.unchanged]:
            with self.repo.lock:
                for name in new:
                    self.waiting.remove(name)
                    if name in self.parts:
                        self.ready.append(name)
                    elif not self.stages[name].changed():
                        self.unchanged.add(name)  # may make others ready: repeat
                    elif self._is_restored(self.stages[name]):
                        self.ran[name] = 0.0
                    else:
                        self.ready.append(name)

    def _start(self, readers: Executor) -> None:
        """Start the ready ones that fit into memory, those with the longest chain first."""
        for name in sorted(self.ready, key=lambda name: -self.chain_seconds[name]):
            needed = [self.costs[name], *(self.costs[child.name] for child in self.running.values())]
            fits = not self.running or sum(cost.peak_mib for cost in needed) <= self.room_mib
            if len(self.running) < self.jobs and fits:
                slot = min(set(range(self.jobs)) - {child.slot for child in self.running.values()})
                gpu = {"CUDA_VISIBLE_DEVICES": str(slot % self.gpus)} if self.gpus else {}
                self.ready.remove(name)
                child = Child(self.stages[name], self.parts.get(name), slot, {**self.environment, **gpu})
                self.running[readers.submit(child.print_lines)] = child

    def _is_restored(self, stage: Stage) -> bool:
        """Whether DVC's run cache had the outputs, as after a setting was changed back."""
        stage.remove_outs(ignore_remove=False, force=False)
        try:
            self.repo.stage_cache.restore(stage)
        except RunCacheNotFoundError:
            stage.save_deps()
            return False
        self.lock_file.record(stage)
        return True

    def _finish(self, done: set[Future[int]]) -> None:
        for future in done:
            child, code = self.running.pop(future), future.result()
            if not child.is_part:
                with self.repo.lock, child.locks:
                    try:
                        if code == 0:
                            self.lock_file.record(child.stage)
                    except DvcException as error:
                        code, child.reason = 1, str(error)
            seconds = time.monotonic() - child.began
            print(f"{child.name} | {'failed after' if code else 'done in'} {seconds:.1f} s", flush=True)
            self.left.note(self.costs[child.name].seconds, seconds)
            if code == 0 or child.is_part:  # what a part left undone, its stage does
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

    def _print_time_left(self) -> None:
        now = time.monotonic()
        run = {child.name: now - child.began for child in self.running.values()}
        left = {name: (self.costs[name].seconds, run.get(name, 0.0)) for name in [*self.ready, *self.waiting, *run]}
        longest = max((self.chain_seconds[name] for name in left), default=0.0)
        if seconds := self.left.due(left.values(), longest, self.jobs):
            say(f"repro: {len(self.ran)} done, {len(left)} left: about {time_text(seconds)} more")

    def summarise(self) -> None:
        left = [*self.ready, *self.waiting]
        ran = [name for name in self.ran if name not in self.parts]
        parts = [name for name in self.ran if name in self.parts]
        counts = {"ran": ran, "parts of sweeps": parts, "unchanged": self.unchanged, "failed": self.failed}
        texts = [f"{len(names)} {what}" for what, names in (counts | {"not run": left}).items() if names]
        work, wall = sum(self.ran.values()), time.monotonic() - self.began
        say(f"repro: {', '.join(texts)}; {work:.0f} s of work in {wall:.0f} s, {self.jobs} at a time")
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


class LockFile:
    """dvc.lock, which DVC reads and writes as a whole: for several stages at a time.

    What a killed process did not write, DVC's run cache has, or the store.
    """

    def __init__(self) -> None:
        self.unwritten: list[Stage] = []
        self.next = time.monotonic() + LOCK_FILE_SECONDS

    def record(self, stage: Stage) -> None:
        """What the stage made, in DVC's caches and now or later in dvc.lock."""
        stage.save(run_cache=all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs))
        stage.commit()
        self.unwritten.append(stage)
        if time.monotonic() > self.next:
            self.write()

    def write(self) -> None:
        began = time.monotonic()
        by_file = {stage.dvcfile.path: stage.dvcfile for stage in self.unwritten}
        for path, file in by_file.items():
            file.dump_stages([one for one in self.unwritten if one.path == path], update_pipeline=False)
        self.unwritten.clear()
        self.next = time.monotonic() + max(LOCK_FILE_SECONDS, 20 * (time.monotonic() - began))


def _wait_for_other_runs(locks: Path) -> None:
    """Wait until no other DVC runs a stage here, as after a killed `trilemma repro`: DVC itself would fail."""
    announced = False
    while locks.is_file() and any(map(psutil.pid_exists, map(int, re.findall(r'"pid": (\d+)', locks.read_text())))):
        if not announced:
            say("waiting for the stages that another DVC runs here")
        announced = True
        time.sleep(0.5)


def is_read(command: str, study: Study) -> bool:
    """Whether anything reads what the command makes: fakes and training of a guide that no entry uses are not read."""
    used = {use["guide"] for entry in study.guided.values() for use in entry.guides}
    program, verb, name = [*command.split(), "", "", ""][:3]
    return program != "trilemma" or verb not in ("generate", "discriminate") or name in used
