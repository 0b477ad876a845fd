"""Twelve trials of 12 to 20 seconds by Ray Tune, two at a time, against the same in two plain loops side by side.

A loop is `trilemma sweep` with half of the values and no Ray. CPU seconds of every process that either way starts,
Ray's own among them. Takes about ten minutes on two idle cores.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
TRIALS, LOOPS = 12, 2
PARAMS = """
root: .
datasets:
  digits: {source: digits, options: {}, features: {}, fakes: 256, evaluate: {images: 256, sample_seeds: 1}}
runs:
  edm:
    dataset: digits
    method: edm.EDM
    model: {net: mlp, width: 256, depth: 3}
    train: {steps: 500, batch: 128}
    sample: {}
guides: {}
guided: {}
sweeps: {lr: {of: edm, table: lr, field: model.lr, values: [1.0e-3], seeds: 1}}
"""
VALUES = [f"{number}.0e-4" for number in range(1, TRIALS + 1)]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        halves = [VALUES[number::LOOPS] for number in range(LOOPS)]
        plain = cpu_seconds([sweep(Path(scratch) / f"loop-{n}", half, 0) for n, half in enumerate(halves)])
        print(f"{LOOPS} plain loops: {plain:.0f} CPU seconds, {plain / TRIALS:.1f} a trial", flush=True)
        tuned = cpu_seconds([sweep(Path(scratch) / "tune", VALUES, LOOPS)])
        print(f"Ray Tune, {LOOPS} at a time: {tuned:.0f} CPU seconds, {tuned / plain:.2f} times the plain loops")


def sweep(folder: Path, values: Sequence[str], concurrent: int) -> "subprocess.Popen[bytes]":
    """Begun in a study of its own, with an empty store."""
    folder.mkdir()
    for code in ("pipeline", "methods"):
        (folder / code).symlink_to(ROOT / code)
    (folder / "params.yaml").write_text(PARAMS)
    command = ["sweep", "lr", "--values", ",".join(values), "--concurrent", str(concurrent)]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli.main", *command], cwd=folder, stderr=subprocess.DEVNULL
    )


def cpu_seconds(children: Sequence["subprocess.Popen[bytes]"]) -> float:
    """Of them and all they start, looked at four times a second: what ends sooner after its last look is lost."""
    spent: dict[psutil.Process, float] = {}
    while any(child.poll() is None for child in children):
        for child in children:
            try:
                family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for process in family:
                try:
                    times = process.cpu_times()
                    spent[process] = times.user + times.system
                except psutil.NoSuchProcess:
                    pass
        time.sleep(0.25)
    if any(child.returncode for child in children):
        raise SystemExit("a sweep failed: run it by hand")
    return sum(spent.values())


if __name__ == "__main__":
    main()
