"""Progress of a stage on stderr, and its values and images in an MLflow run."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from pipeline.console import say
from pipeline.data.image_grid import grid, path_grid
from pipeline.tracking.mlflow_run import Run, RunSpec, attach
from pipeline.tracking.progress import progress

GRID_IMAGES = 64
EVALUATED = "samples-0"  # the first set of evaluated images
NOT_IN_A_NAME = re.compile(r"[^\w.-]+")  # characters that MLflow refuses
LOSS = re.compile(r"(?!held_out_)\w*loss")


class Watch:
    """Can be sent to another process and `opened` there; see `context.Watch`."""

    def __init__(self, spec: RunSpec, label: str, unit: str, part: str = "") -> None:
        """part: the stage, where the run is that of a trial, which has few curves and logs results and cost itself."""
        self.spec, self.label, self.unit, self.part = spec, label, unit, part
        self.noted: dict[str, float] = {}  # see `note_cost`
        self._run: Run | None = None
        self._show: Callable[[int], None] | None = None
        self._open = ExitStack()

    def __reduce__(self) -> tuple[Any, ...]:
        return Watch, (self.spec, self.label, self.unit, self.part)

    @contextmanager
    def opened(self, run: Run | None = None) -> Iterator["Watch"]:
        """run: opened by this process; otherwise the run is attached to. If the watch is open, this does nothing."""
        if self._run is not None:
            yield self
            return
        with self._open:
            self._run = run if run is not None else self._open.enter_context(attach(self.spec))
            yield self
        self._run, self._show = None, None

    @property
    def run(self) -> Run:
        assert self._run is not None, "use a watch inside `with watch.opened()`"
        return self._run

    def progress(self, done: int, total: int) -> None:
        if self._show is None:
            if not self.part:  # a sweep prints its own lines
                say(f"{self.label}: started, {total} {self.unit}")
            self._show = self._open.enter_context(progress(total, self.label, self.unit, done))
        self._show(done)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        shown = [name for name in values if name != "step"]
        if self.part:
            shown = [name for name in shown if LOSS.fullmatch(name)] or shown[:1]
        self.run.log({f"train/{self.part} {name}".replace("/ ", "/"): values[name] for name in shown}, step)

    def samples(self, key: str, images: np.ndarray, step: int) -> None:
        """The first ones as a grid, with a slider over steps."""
        if images.ndim == 4 and not (self.part and key != EVALUATED):
            self.run.images(key, grid(images[:GRID_IMAGES], 8), step)

    def path(self, states: np.ndarray) -> None:
        """Each state on a slider, and all in one image."""
        if self.part:
            return
        for step, state in enumerate(states):
            self.samples("denoising", state, step)
        if states.ndim == 5:
            self.run.picture("paths.png", path_grid(list(states)))

    def results(self, values: Mapping[str, float]) -> None:
        if self.part:
            return
        self.run.log({f"eval/{result_label(name)}": value for name, value in values.items()}, 0)

    def note_cost(self, name: str, value: float) -> None:
        self.noted[name] = float(f"{value:.4g}")

    def cost(self, values: Mapping[str, Any]) -> None:
        if self.part:
            return
        self.run.log({f"cost/{name}": value for name, value in values.items() if isinstance(value, int | float)}, 0)

    def settle(self) -> None:
        """Send what is buffered, also to a tracker that restarts."""
        self.run.settle()

    def finish(self) -> None:
        """Close the run, unless it is that of a trial, which has more stages."""
        if not self.part:
            self.run.finish("FINISHED")


def result_label(name: str) -> str:
    """Of a metric and its features, in MLflow: such as "fd small-cnn"."""
    metric, _, of = name.partition(" ")
    return f"{metric} {NOT_IN_A_NAME.sub('_', of)}".rstrip()
