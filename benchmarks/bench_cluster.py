"""What a Ray cluster costs beside this process: joining it, steps of training on it; and what `repro --jobs 2` saves.

A head on loopback as infra/README.md starts it. Rounds are interleaved; medians and ranges. `bench_cluster.py join`,
`steps` or `jobs` does one part; a number after it says how many rounds.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from timing import timed

from pipeline.context import Launch, Worker
from pipeline.launch.launcher import launcher

BIN = Path(sys.executable).parent
ROUNDS = 9
STEPS = 20
IMPORTS = {
    "torch and MLflow, which every stage pays": "import torch, mlflow",
    "with Ray, of a stage that maps": "import torch, mlflow, pipeline.launch.ray_tasks",
    "with Ray Train, of one that trains": "import torch, mlflow, pipeline.launch.ray_train",
}
JOIN = """
import time
from pipeline.launch.launcher import launcher
launch = launcher(1, {address!r})
began = time.perf_counter()
with launch:
    print(time.perf_counter() - began)
"""
BURN = "import sys; n = sum(i * i for i in range(150_000_000)); open(sys.argv[1], 'w').write(str(n))"


def main() -> None:
    part, rounds = [*sys.argv[1:], "", ""][:2]
    parts: dict[str, Callable[[int], None]] = {"join": join, "steps": steps, "jobs": jobs}
    for measure in (parts[part],) if part else parts.values():
        measure(int(rounds or ROUNDS))


def join(rounds: int) -> None:
    """Every time in a process of its own, as a stage is one."""

    def told(code: str) -> float:
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    with head() as address:
        joining = JOIN.format(address=address)
        told(joining)
        codes = {name: f"{code}\nimport time; print(time.process_time())" for name, code in IMPORTS.items()}
        turns = [{"join": told(joining)} | {name: told(code) for name, code in codes.items()} for _ in range(rounds)]
    print(f"joining a running cluster: {spread([turn['join'] for turn in turns])} s")
    for name in IMPORTS:
        print(f"imports, {name}: {spread([turn[name] for turn in turns])} CPU s")


def steps(rounds: int) -> None:
    def of(launch: Launch) -> tuple[float, float]:
        began = time.perf_counter()
        ms = launch.fit(train_on, str(folder), uuid.uuid4().hex)
        return ms, time.perf_counter() - began

    with head() as address, tempfile.TemporaryDirectory() as folder, launcher(1, address) as there:
        turns = [(of(launcher()), of(there)) for _ in range(rounds)]
    ratios = [here[0] / far[0] for here, far in turns]
    print(f"a step in this process: {spread([here[0] for here, _ in turns], 0)} CPU ms")
    print(f"step rate of one Ray worker: {spread(ratios)} times that")
    print(
        f"a fit of {STEPS} steps: {spread([t[1] for _, t in turns], 1)} s, here {spread([h[1] for h, _ in turns], 1)} s"
    )


def train_on(worker: Worker, folder: str, key: str) -> float:
    """CPU milliseconds of a step, with checkpoints; all threads of the process count."""
    from methods.core.types import DataSpec
    from methods.edm import EDM
    from pipeline.dag.plan import Unwatched
    from pipeline.data.loader import Epochs
    from pipeline.store.store import Store
    from pipeline.training.loop import Job, train

    images = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32)).astype(np.uint8)
    method = EDM(width=32, depth=1, channel_mult=(1, 2), attention=(), lr_rampup_images=0)
    job = Job(method, DataSpec((3, 32, 32), 0, 0.5), Epochs(images, None, 16, 0), STEPS, 16, 0, "float32")
    return 1000 / STEPS * timed(lambda: train(worker, job, Store(folder).state(key), Unwatched()))  # type: ignore[arg-type]


def jobs(rounds: int) -> None:
    """Two chains of two equal stages, of some 10 CPU seconds each, from nothing."""

    def run(count: int) -> float:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            stages = ["stages:"]
            for chain in "ab":
                for number, needs in ((1, "burn.py"), (2, f"{chain}1")):
                    out = f"{chain}{number}"
                    stages.append(f"  {out}: {{cmd: {sys.executable} burn.py {out}, deps: [{needs}], outs: [{out}]}}")
            files = {"dvc.yaml": "\n".join(stages), "params.yaml": "root: .\ndatasets: {}\n", "burn.py": BURN}
            for file, text in files.items():
                (folder / file).write_text(text)
            command([BIN / "dvc", "init", "--no-scm", "--quiet"], folder)
            began = time.perf_counter()
            command([BIN / "trilemma", "repro", "--jobs", str(count)], folder)
            return time.perf_counter() - began

    turns = [(run(1), run(2)) for _ in range(rounds)]
    print(f"--jobs 2 on two equal chains: {spread([two / one for one, two in turns])} of the serial wall time", end="")
    print(f" ({spread([one for one, _ in turns], 0)} s)")


def command(words: list[object], folder: Path) -> None:
    subprocess.run([*map(str, words)], cwd=folder, check=True, capture_output=True)


@contextmanager
def head() -> Iterator[str]:
    """Its address; what runs in this process has the token."""
    folder = tempfile.mkdtemp(prefix="tri-b-", dir="/tmp")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    told = f"start --head --node-ip-address 127.0.0.1 --port {port} --num-cpus 1 --include-dashboard false --block"
    words = [BIN / "ray", *told.split(), "--temp-dir", f"{folder}/r", "--disable-usage-stats"]
    environment = os.environ | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    ray = subprocess.Popen([*map(str, words)], env=environment, stdout=subprocess.DEVNULL)
    try:
        while not is_up(port):
            time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        ray.terminate()
        ray.wait()
        shutil.rmtree(folder, ignore_errors=True)


def is_up(port: int) -> bool:
    told = subprocess.run([BIN / "ray", "status", "--address", f"127.0.0.1:{port}"], capture_output=True, text=True)
    return "1 node_" in told.stdout


def spread(values: list[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
