"""Peak memory and time of `trilemma measure --extractor none` on features as wide as Inception's, in a child process.

`python benchmarks/measure_memory.py [SAMPLES]`; 50,000 of each side take ten minutes or more on one core.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

SAMPLES, WIDTH = 50_000, 2048
BLOCK = 2_000


def main(samples: int) -> None:
    with TemporaryDirectory() as folder:
        sides = [write(Path(folder) / f"{name}.npy", samples, seed) for seed, name in enumerate(("generated", "real"))]
        command = [sys.executable, "-m", "pipeline.cli.main", "measure", *map(str, sides), "--extractor", "none"]
        start = time.monotonic()
        subprocess.run(command, check=True)
        seconds = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{samples} x {WIDTH} float32 features on both sides: peak memory {used.ru_maxrss / 2**20:.2f} GiB, "
        f"{used.ru_utime + used.ru_stime:.0f} CPU seconds in {seconds:.0f}"
    )


def write(file: Path, samples: int, seed: int) -> Path:
    """Positive and correlated, as averaged activations are."""
    rng = np.random.default_rng(seed)
    mixing = (np.random.default_rng(9).normal(size=(WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
    features = np.lib.format.open_memmap(file, "w+", np.float32, (samples, WIDTH))
    for start in range(0, samples, BLOCK):
        rows = features[start : start + BLOCK]
        rows[:] = np.abs(rng.standard_normal(rows.shape, np.float32) @ mixing * (1 + 0.01 * seed))
    return file


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
