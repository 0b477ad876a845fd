"""`trilemma repro`: `dvc repro` with the stages that do not need each other side by side.

DVC stays in charge: it says what needs what and what has changed, and a changed stage is a `dvc repro --single-item` of
its own (otherwise DVC would lock what a stage needs as if it wrote it, and neighbours would fail).
"""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import pandas as pd
import psutil
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.stage import Stage
from networkx import DiGraph

from pipeline.config.study import load_study
from pipeline.console import say
from pipeline.dag.resolve import Cost, past_costs
from pipeline.errors import TrilemmaError, UserError
from pipeline.launch.launcher import launcher
from pipeline.launch.signals import GRACE_SECONDS, end_with_parent, on_sigterm
from pipeline.store.open import open_store

DVC = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item")
MIB = 2**20


def reproduce(targets: Sequence[str], jobs: int, workers: int | None, address: str | None) -> None:
    """What the targets need, or all of dvc.yaml, up to `jobs` stages at a time; a failure stops only what needs it."""
    if workers is None:
        workers = load_study(Path.cwd() / "params.yaml").launch.workers
    if workers == 0:
        launcher(workers, address)  # refuses what every stage would refuse
    on_sigterm()
    costs = _costs(Path.cwd())
    environment = {"TRILEMMA_WORKERS": str(workers), **({} if address is None else {"TRILEMMA_ADDRESS": address})}
    try:
        with Repo(_wait_for_lock=True) as repo:
            graph = get_active_graph(repo.index.graph)
            plan = plan_repro(graph, collect_stages(repo, targets or ["dvc.yaml"]))
            house = Scheduler(repo, graph, plan, jobs, costs, environment)
            try:
                house.run()
            finally:
                house.stop()
                house.summarise()
    except DvcException as error:
        raise UserError(f"DVC: {error}") from error
    if house.failed:
        raise TrilemmaError(f"{len(house.failed)} of {len(plan)} stages failed: {', '.join(house.failed)}")


class Scheduler:
    """Which stages wait, run, are done or failed, by their names."""

    def __init__(
        self,
        repo: Repo,
        graph: DiGraph,
        plan: Sequence[Stage],
        jobs: int,
        costs: Mapping[str, Cost],
        environment: Mapping[str, str],
    ) -> None:
        self.repo, self.costs, self.environment = repo, costs, environment
        self.began, self.room_mib = time.monotonic(), psutil.virtual_memory().available // MIB
        self.gpus = len(list(Path("/dev").glob("nvidia[0-9]*"))) if "CUDA_VISIBLE_DEVICES" not in os.environ else 0
        self.slots = list(range(jobs))
        self.waiting: dict[str, Stage] = {str(stage.addressing): stage for stage in plan}
        self.needs = {name: {str(one.addressing) for one in graph.successors(it)} for name, it in self.waiting.items()}
        self.seconds_ahead = self._seconds_ahead(graph)
        self.ready: dict[str, Stage] = {}  # changed, and nothing but room is missing
        self.running: list[Running] = []
        self.ran: dict[str, float] = {}  # seconds
        self.unchanged: set[str] = set()
        self.failed: dict[str, str] = {}  # the last thing it said
        self.output = selectors.DefaultSelector()

    def run(self) -> None:
        """Until nothing runs and nothing that waits can."""
        self._start_what_can()
        while self.running:
            self._listen(None)
            self._start_what_can()

    def stop(self) -> None:
        """End what still runs, in order: a stage first, so that its DVC can take back its locks."""
        deadline, asked = time.monotonic() + 2 * GRACE_SECONDS, set[psutil.Process]()
        while self.running:
            for running in self.running:
                running.ask_to_end(asked, by_force=time.monotonic() > deadline)
            self._listen(0.1)

    def summarise(self) -> None:
        left = [*self.ready, *self.waiting]
        counts = {"ran": self.ran, "unchanged": self.unchanged, "failed": self.failed, "not run": left}
        parts = [f"{len(names)} {what}" for what, names in counts.items() if names]
        work, wall = sum(self.ran.values()), time.monotonic() - self.began
        say(f"repro: {', '.join(parts)}; {work:.0f} s of work in {wall:.0f} s")
        for name, reason in self.failed.items():
            say(f"  failed: {name}: {reason}")
        for name in left:
            lost = sorted(self._failed_below(name))
            say(f"  not run: {name}{', which needs ' if lost else ''}{', '.join(lost)}")

    def _failed_below(self, name: str) -> set[str]:
        below = self.needs.get(name, set())
        return (below & self.failed.keys()).union(*(self._failed_below(one) for one in below))

    def _start_what_can(self) -> None:
        """Unchanged stages make others ready at once, so go round until nothing is new."""
        while new := [name for name in self.waiting if self.needs[name] <= self.ran.keys() | self.unchanged]:
            with self.repo.lock:
                for name in new:
                    stage = self.waiting.pop(name)
                    if stage.changed():
                        self.ready[name] = stage
                    else:
                        self.unchanged.add(name)
        for name, stage in sorted(self.ready.items(), key=lambda item: -self.seconds_ahead[item[0]]):
            used = sum(self._cost(running.command).peak_mib for running in self.running)
            fits = not self.running or used + self._cost(str(stage.cmd)).peak_mib <= self.room_mib
            if self.slots and fits:
                self._start(self.ready.pop(name))

    def _cost(self, command: str) -> Cost:
        return self.costs.get(command, Cost(0.0, 0))

    def _seconds_ahead(self, graph: DiGraph) -> dict[str, float]:
        """Of each stage and the longest chain that waits for it: what is to be begun first."""
        ahead = dict[str, float]()
        for name, stage in reversed(self.waiting.items()):  # what needs a stage comes before it here
            above = [ahead.get(str(one.addressing), 0.0) for one in graph.predecessors(stage)]
            ahead[name] = self._cost(str(stage.cmd)).seconds + max(above, default=0.0)
        return ahead

    def _listen(self, seconds: float | None) -> None:
        for key, _ in self.output.select(seconds):
            if not key.data.hear():
                self._finish(key.data)

    def _start(self, stage: Stage) -> None:
        slot = self.slots.pop(0)
        gpu = {"CUDA_VISIBLE_DEVICES": str(slot % self.gpus)} if self.gpus else {}
        running = Running(stage, slot, {**os.environ, **self.environment, **gpu})
        self.running.append(running)
        self.output.register(running.pipe, selectors.EVENT_READ, running)

    def _finish(self, running: "Running") -> None:
        self.output.unregister(running.pipe)
        name, code = running.name, running.child.wait()
        running.pipe.close()
        self.running.remove(running)
        self.slots.append(running.slot)
        if code == 0:
            self.ran[name] = time.monotonic() - running.began
        else:
            self.failed[name] = running.reason or f"dvc repro ended with {code}"


class Running:
    """One stage in a DVC of its own, which ends when we do."""

    def __init__(self, stage: Stage, slot: int, environment: Mapping[str, str]) -> None:
        self.name, self.command = str(stage.addressing), str(stage.cmd)
        self.slot, self.began = slot, time.monotonic()
        self.child = subprocess.Popen(
            [*DVC, self.name],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes to us, and we end things in order
            preexec_fn=end_with_parent,
        )
        assert self.child.stdout is not None
        self.pipe: IO[bytes] = self.child.stdout
        self.reason = ""
        self._rest, self._said = b"", ""

    def hear(self) -> bool:
        """Print whole lines under the stage's name; False when it has closed its output."""
        heard = os.read(self.pipe.fileno(), 65536)
        *lines, self._rest = (self._rest + (heard or b"\n")).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if not text:
                continue
            print(f"{self.name} | {text}", flush=True)
            if text.startswith("ERROR: ") and not self.reason:  # DVC's; a stage that says why it ends says it last
                self.reason = self._said if self._said.startswith("trilemma: ") else text
            self._said = text
        return bool(heard)

    def ask_to_end(self, asked: set[psutil.Process], by_force: bool) -> None:
        """Once each; what comes to life later is asked when it is seen."""
        if by_force:
            os.killpg(self.child.pid, signal.SIGKILL)
            return
        with suppress(psutil.NoSuchProcess):
            for process in set(_stages_of(psutil.Process(self.child.pid))) - asked:
                asked.add(process)
                process.terminate()


def _stages_of(dvc: psutil.Process) -> Iterator[psutil.Process]:
    """What it runs. A shell may stay above its command: ended, it would leave that alone, and DVC without its locks."""
    for process in dvc.children():
        is_shell = process.cmdline()[-2:-1] == ["-c"]
        below = process.children() if is_shell else []
        yield from below or [process]


def _costs(folder: Path) -> dict[str, Cost]:
    """By command: when it was last computed by the ledger, or else as the last report tells."""
    study = load_study(folder / "params.yaml")
    reported = folder / "reports" / "tables" / "cost.csv"
    told = pd.read_csv(reported).dropna(subset=["seconds"]).to_dict("records") if reported.is_file() else []
    costs = {(row["stage"], row["name"]): Cost(row["seconds"], int(row["peak_memory_mib"])) for row in told}
    return {f"trilemma {' '.join(call)}": cost for call, cost in (costs | past_costs(open_store(study))).items()}
