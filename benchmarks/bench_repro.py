"""CPU seconds of a small study's 27 stages by `dvc repro` and by `trilemma repro`, from nothing and with nothing to do;
and of a study of many tiny stages and a sweep by `trilemma repro --jobs 2`, with the share of time that a job was idle.

All descendants are counted, also those that outlive their parents. Takes about ten minutes (`many`, the second part
alone: three); to be run in the repository's folder with PYTHONPATH=. in the environment.
"""

import ctypes
import os
import re
import resource
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.support.toy_study import ToyStudy

PR_SET_CHILD_SUBREAPER = 36
SEEDS = 7
RUNS = {
    "edm": "{dataset: digits, method: edm.EDM, model: {net: mlp, width: 16}, train: TRAIN, sample: {steps: 3}}",
    "gan": "{dataset: digits, method: gan.GAN, model: {net: mlp, width: 16}, train: TRAIN, sample: {}}",
    "ddgan": "{dataset: digits, method: ddgan.DDGAN, model: {net: mlp, width: 16}, train: TRAIN, sample: {}}",
    "ddpm": "{dataset: digits, method: ddpm.DDPM, model: {net: mlp, width: 16}, train: TRAIN, sample: {spacing: '4'}}",
}
MANY = """
root: ../..
datasets:
  digits: {source: digits, options: {}, features: {epochs: 1}, fakes: 64, evaluate: {images: 64, sample_seeds: 1}}
sweeps:
  nfe: {of: edm-0, table: nfe, values: [4, 6, 9, 18, 36], seeds: 1}
runs:
"""


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryDirectory() as scratch:
        if sys.argv[1:] != ["many"]:
            compare_with_dvc(Path(scratch))
        measure_many_stages(Path(scratch) / "many" / "house")


def compare_with_dvc(scratch: Path) -> None:
    seconds = {"dvc": [0.0], "trilemma": [0.0]}
    for program, taken in seconds.items():
        toy = versioned(ToyStudy.build(scratch / program / "house"))
        taken[:] = [cpu_seconds(toy, program)[0], cpu_seconds(toy, program)[0]]
        print(f"{program} repro: {taken[0]:.1f} CPU s, again with nothing to do {taken[1]:.1f} CPU s", flush=True)
    ratios = [first / second for first, second in zip(*seconds.values(), strict=True)]
    print(f"dvc / trilemma: {ratios[0]:.2f}, with nothing to do {ratios[1]:.2f}")


def measure_many_stages(house: Path) -> None:
    toy = versioned(ToyStudy.build(house))
    train = "{{steps: 10, batch: 32, seed: {}}}"
    runs = [
        f"  {name}-{n}: {run}".replace("TRAIN", train.format(n)) for name, run in RUNS.items() for n in range(SEEDS)
    ]
    (toy.folder / "params.yaml").write_text(MANY + "\n".join(runs))
    seconds, printed = cpu_seconds(toy, "trilemma", "--jobs", "2")
    ran, work, wall = map(int, re.findall(r"repro: (\d+) ran.*; (\d+) s of work in (\d+) s", printed)[0])
    print(f"{ran} tiny stages, two at a time: {seconds / ran:.2f} CPU s each; idle {1 - work / (2 * wall):.1%}")
    print(f"again with nothing to do: {cpu_seconds(toy, 'trilemma', '--jobs', '2')[0]:.1f} CPU s")


def versioned(toy: ToyStudy) -> ToyStudy:
    toy.call("git", "-C", str(toy.house), "init", "--quiet")
    toy.call("dvc", "--cd", str(toy.house), "init", "--quiet", "--force")
    return toy


def cpu_seconds(toy: ToyStudy, program: str, *options: str) -> tuple[float, str]:
    """Of `PROGRAM repro` and its descendants, and what it printed on stderr."""
    before = descendants_cpu_seconds()
    printed = toy.call(program, "repro", *options).stderr
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return descendants_cpu_seconds() - before, printed


def descendants_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
