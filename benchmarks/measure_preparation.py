"""Time and peak memory of `trilemma prepare` on encoded pictures, in a child process: once, and ten times as many.

`python benchmarks/measure_preparation.py FOLDER`; FOLDER holds train*.parquet and test*.parquet, such as CIFAR-10's.
Ten times as many are the training files ten times over: no fewer pictures are decoded, digested and written.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

PARAMS = """\
root: {root}
datasets: {{pictures: {{source: parquet, options: {{path: data, names: [{names}]}}}}}}
"""
CLASSES = ", ".join(f"class{number}" for number in range(10))


def main(source: Path) -> None:
    for times in (1, 10):
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "data").mkdir()
            for file in source.glob("*.parquet"):
                for copy in range(times if file.name.startswith("train") else 1):
                    (folder / "data" / f"{file.stem}-{copy}.parquet").symlink_to(file.absolute())
            (folder / "params.yaml").write_text(PARAMS.format(root=Path(__file__).parents[1].absolute(), names=CLASSES))
            places = {"TRILEMMA_STORE": f"{folder}/store", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
            measure(folder, times, os.environ | places)


def measure(folder: Path, times: int, environment: dict[str, str]) -> None:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "prepare", "pictures"], cwd=folder, check=True, env=environment
    )
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"training files {times} times: {seconds:.0f} seconds, {cpu:.1f} CPU seconds, "
        f"peak memory {after.ru_maxrss / 1024:.0f} MiB, load {os.getloadavg()[0]:.0f}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
