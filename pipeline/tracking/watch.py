"""Whoever looks on while a stage runs: a progress bar, and a run in the experiment tracker."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from pipeline.data.image_grid import grid, path_grid
from pipeline.tracking.mlflow_run import Run, RunSpec, attach
from pipeline.tracking.progress import progress

SHOWN = 64  # pictures of a grid
FIRST_SET = "samples-0"  # of the pictures that are evaluated
NO_NAME = re.compile(r"[^\w.-]+")  # what the tracker takes in no name
LOSS = re.compile(r"(?!held_out_)\w*loss")


class Watch:
    """Raw values come in; bars, charts and pictures come out. Can be sent to another process and `opened` there."""

    def __init__(self, spec: RunSpec, label: str, unit: str, part: str = "") -> None:
        """part: the stage, in a run that is a whole trial: it keeps few curves, and logs results and cost itself."""
        self.spec, self.label, self.unit, self.part = spec, label, unit, part
        self.noted: dict[str, float] = {}  # costs that only the stage can measure
        self._run: Run | None = None
        self._reach: Callable[[int], None] | None = None
        self._open = ExitStack()

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "label": self.label, "unit": self.unit, "part": self.part}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    @contextmanager
    def opened(self, run: Run | None = None) -> Iterator["Watch"]:
        """Ready to be told things, here; where it is open already, as it is."""
        if self._run is not None:
            yield self
            return
        with self._open:
            self._run = run if run is not None else self._open.enter_context(attach(self.spec))
            yield self
        self._run, self._reach = None, None

    @property
    def run(self) -> Run:
        assert self._run is not None, "a watch is told things inside `opened`"
        return self._run

    def progress(self, done: int, total: int) -> None:
        if self._reach is None:
            self._reach = self._open.enter_context(progress(total, self.label, self.unit, done))
        self._reach(done)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Of a training step."""
        shown = [name for name in values if name != "step"]
        if self.part:
            shown = [name for name in shown if LOSS.fullmatch(name)] or shown[:1]
        self.run.log({f"train/{self.part} {name}".replace("/ ", "/"): values[name] for name in shown}, step)

    def samples(self, key: str, images: np.ndarray, step: int) -> None:
        """images: uint8 [n, C, H, W]; the first of them, on a slider over steps."""
        if images.ndim == 4 and not (self.part and key != FIRST_SET):
            self.run.images(key, grid(images[:SHOWN], 8), step)

    def path(self, states: np.ndarray) -> None:
        """Denoising: uint8 [steps, n, C, H, W], each state on the slider, and all in one picture."""
        if self.part:
            return
        for step, state in enumerate(states):
            self.samples("denoising", state, step)
        if states.ndim == 5:
            self.run.picture("paths.png", path_grid(list(states)))

    def results(self, values: Mapping[str, float]) -> None:
        """Final values, once; by "metric of-what"."""
        if self.part:
            return
        self.run.log({f"eval/{_label(name)}": value for name, value in values.items()}, 0)

    def note_cost(self, name: str, value: float) -> None:
        """Joins the costs of the whole execution in the ledger."""
        self.noted[name] = float(f"{value:.4g}")

    def cost(self, values: Mapping[str, Any]) -> None:
        if self.part:
            return
        self.run.log({f"cost/{name}": value for name, value in values.items() if isinstance(value, int | float)}, 0)

    def settle(self) -> None:
        """Everything told so far has arrived, if the tracker answers at all."""
        self.run.settle()

    def finish(self) -> None:
        """The execution is complete; a trial goes on after its stages."""
        if not self.part:
            self.run.finish("FINISHED")


def _label(name: str) -> str:
    metric, _, of = name.partition(" ")
    return f"{metric} {NO_NAME.sub('_', of)}".rstrip()
