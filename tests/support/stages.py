"""Run one stage in this process, without keys, tracker and DVC."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.config.build import build
from pipeline.context import RunContext
from pipeline.dag.graph import stage_module
from pipeline.data.artifacts import Artifact
from pipeline.launch.launcher import launcher
from pipeline.store.publish import new_artifact
from pipeline.store.store import Store


class RecordingWatch:
    """Keeps the results and costs that a stage reports."""

    def __init__(self) -> None:
        self.reported: dict[str, Any] = {}

    def results(self, values: Mapping[str, float]) -> None:
        self.reported.update(values)

    def note_cost(self, name: str, value: float) -> None:
        self.reported[name] = value

    def progress(self, done: int, total: int) -> None: ...

    def samples(self, key: str, images: np.ndarray, step: int) -> None: ...


def run_stage_alone(
    stage: str, config: dict[str, Any], inputs: Mapping[str, Artifact], out: Path, watch: RecordingWatch | None = None
) -> Artifact:
    module = import_module(stage_module(stage))
    digests = {role: artifact.digest for role, artifact in inputs.items()}
    with (
        launcher(0, None) as launch,
        new_artifact(out, stage=stage, name=out.name, config=config, inputs=digests) as draft,
    ):
        state = Store(str(out.parent / "store")).state("key")
        context = RunContext(launch, state, cast(Any, watch or RecordingWatch()))
        module.run(inputs, build(module.Config, config, stage), draft, context)
    return draft.artifact
