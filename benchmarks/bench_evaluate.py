"""The stage `evaluate` at 10,000 x 2,048 features (or argv[1] samples): CPU seconds, one thread.

Before: it computed the real-vs-real values too. After: it reads those that the stage `features` stored.
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from timing import timed

from pipeline.context import RunContext
from pipeline.data.artifacts import Artifact
from pipeline.data.shards import Pictures, write_pictures
from pipeline.launch.launcher import launcher
from pipeline.metrics.evaluate import evaluator_of
from pipeline.metrics.evaluator import write_real_vs_real
from pipeline.stages import evaluate, features
from pipeline.store.publish import new_artifact
from pipeline.store.store import Store

SAMPLES = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
SHAPE = 2048, 1, 1  # the pixels are the features
SETS = 2


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = made(folder, "prepare", {"train": 0, "held_out": 1}, shape=SHAPE, classes=0)
        sets = {f"samples-{number}": 2 + number for number in range(SETS)}
        samples = made(folder, "sample", sets, nfe=1.0, guide_calls=0.0, images=SAMPLES * SETS)
        more_than_held_out = features.Config(images=SAMPLES + 1)  # so that it leaves the values to this benchmark
        reference = ran(folder, features, {"data": data}, more_than_held_out)
        write_real_vs_real(found := {}, reference.path)
        evaluator = evaluator_of(data.path, reference.path)
        real_vs_real = timed(lambda: found.update(evaluator.real_vs_real(SAMPLES)))
        write_real_vs_real(found, reference.path)
        inputs = {"prepare": data, "features": reference, "samples": samples}
        after = timed(lambda: ran(folder, evaluate, inputs, evaluate.Config()))
        before = after + real_vs_real
        print(f"evaluate, {SETS} sets of {SAMPLES:,} x {SHAPE[0]:,} features: ", end="")
        print(f"before {before:.1f} s, after {after:.1f} s, ratio {after / before:.2f}")


def made(folder: Path, stage: str, seeds: dict[str, int], **facts: Any) -> Artifact:
    """A set of correlated images for each seed."""
    mixing = np.random.default_rng(9).normal(size=(SHAPE[0], SHAPE[0])) * np.linspace(1, 0.05, SHAPE[0])[:, None]
    with new_artifact(folder / stage, stage, stage, {}, {}) as draft:
        for name, seed in seeds.items():
            values = np.random.default_rng(seed).normal(size=(SAMPLES, SHAPE[0])) @ mixing
            images = (128 + values).clip(0, 255).astype(np.uint8).reshape(SAMPLES, *SHAPE)
            write_pictures(draft.path, name, Pictures(images, np.full(SAMPLES, -1), np.arange(SAMPLES)))
            draft.seeds[name] = [0, SAMPLES]
        draft.facts.update(facts)
    return draft.artifact


def ran(folder: Path, stage: Any, inputs: dict[str, Artifact], config: Any) -> Artifact:
    with launcher(0, None) as launch, new_artifact(folder / stage.__name__, stage.__name__, "", {}, {}) as draft:
        state = Store(f"{folder}/store").state(stage.__name__)
        watch: Any = SimpleNamespace(progress=lambda *_: None, results=lambda _: None)
        stage.run(inputs, config, draft, RunContext(launch, state, watch))
    return draft.artifact


if __name__ == "__main__":
    main()
