"""Here, on Ray Train, or as Ray tasks: the same results, the original errors, and nothing left behind."""

import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import psutil
import pytest
import torch
from torch import Tensor, nn

from methods.core.loop import TrainState, train_steps
from methods.core.rng import StepRng, rows_of_worker
from methods.core.types import Adam, Batch, DataSpec, Draws, Ema, Metrics, Nets, Player
from pipeline.context import Launch, Worker
from pipeline.data.loader import Batches, Prepared, Stream
from pipeline.errors import Interrupted, UserError
from pipeline.launch.launcher import launcher
from tests.pipeline.data.test_row_index import left_in_store
from tests.support.children import ROOT, start, wait_for

DATA = DataSpec((2,), 0, 1.0)
IMAGES = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BATCH = 32
Weights = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Denoiser:
    """As little as trains: one network, one player, an average."""

    def players(self) -> tuple[Player, ...]:
        return (Player("denoiser", "net", Adam(lambda progress: 0.01), Ema(lambda progress: 0.9)),)

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        width = data.shape[-1]
        return {"net": nn.Sequential(nn.Linear(width, 32), nn.SiLU(), nn.Linear(32, width))}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        return {"noise": rng.normal(*batch.images.shape)}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        loss = (nets["net"](batch.images + draws["noise"]) - batch.images).square().mean()
        return loss, {"loss": loss.detach()}


def rolled(worker: Worker) -> Batches:
    rows = rows_of_worker(BATCH, worker.rank, worker.world)
    return lambda step: Batch(IMAGES.roll(-BATCH * step, 0)[rows.start : rows.stop])


def train(
    worker: Worker, dtype: torch.dtype, steps: int, batches: Batches | None = None, data: DataSpec = DATA
) -> Weights:
    method = Denoiser()
    state = TrainState.fresh(method, data, 0, worker.device, dtype)
    every = train_steps(
        method,
        state,
        batches or rolled(worker),
        seed=0,
        batch=BATCH,
        steps=steps,
        all_reduce=worker.all_reduce,
        rank=worker.rank,
        world=worker.world,
    )
    for _ in every:
        pass
    return {name: {k: v.cpu() for k, v in net.items()} for name, net in state.weights(method.players()).items()}


def train_briefly(worker: Worker, steps: int) -> Weights:
    assert (worker.rank, worker.world, worker.all_reduce) == (0, 1, None)
    return train(worker, torch.float32, steps)


def fail_on_the_last_worker(worker: Worker, message: str) -> None:
    if worker.rank == worker.world - 1:
        raise UserError(message)
    step_for_ever(worker)


def step_for_ever(worker: Worker) -> None:
    print(f"started in a world of {worker.world}", flush=True)
    while not worker.must_stop():
        if worker.all_reduce is not None:
            worker.all_reduce(torch.ones(3))
        time.sleep(0.05)
    raise Interrupted("what there was")


def slow_square(number: int) -> tuple[int, int]:
    if number < 0:
        raise UserError(f"{number} is negative")
    time.sleep(0.5 if number % 2 == 0 else 0.0)
    return number * number, os.getpid()


def tensors(weights: Weights) -> list[Tensor]:
    return [value for net in weights.values() for value in net.values()]


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Launch]:
    if torch.cuda.device_count() == 1:
        pytest.skip("two workers need two GPUs or none")
    with chdir(ROOT), launcher(2) as launch:
        yield launch


def test_without_workers_ray_is_never_imported():
    code = """
        import sys
        from pipeline.launch.launcher import launcher
        with launcher() as launch:
            worker = launch.fit(lambda worker: worker)
            assert (worker.rank, worker.world, worker.all_reduce) == (0, 1, None)
            assert list(launch.map(abs, [-1, 2])) == [1, 2]
            assert launch.description["backend"] == "in-process"
        assert not [name for name in sys.modules if name.partition(".")[0] == "ray"]
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_call_in_this_process_leaves_torch_as_it_was():
    seen = launcher().fit(lambda worker: (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
    assert seen == (1, True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_cannot_be_started_is_one_line_before_any_work():
    with pytest.raises(UserError, match="--workers 10000 needs as many CPUs, but this machine has"):
        launcher(10_000)
    with pytest.raises(UserError, match="no workers: say how many with --workers"):
        launcher(0, "127.0.0.1:6379")
    with pytest.raises(UserError, match="-1 workers"):
        launcher(-1)


def test_an_address_without_a_ray_cluster_fails_at_once():
    class Greeting(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(100)
            self.request.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster can be joined at {address}"), launcher(1, address):
            pass
        server.shutdown()
    with pytest.raises(UserError, match=r"UNAVAILABLE.*: give host:port of its head node"), launcher(1, address):
        pass
    with pytest.raises(UserError, match="no Ray cluster can be joined at head"), launcher(1, "head"):
        pass


@pytest.mark.ray
def test_one_ray_worker_trains_to_the_same_bits_as_this_process():
    here = launcher().fit(train, torch.float32, 20)
    with chdir(ROOT), launcher(1) as launch:
        there = launch.fit(train, torch.float32, 20)
        assert launch.description["backend"] == "ray-local"
    assert all(torch.equal(a, b) for a, b in zip(tensors(here), tensors(there), strict=True))


@pytest.mark.ray
def test_two_workers_train_to_the_weights_of_one_up_to_rounding(two_workers: Launch):
    one = launcher().fit(train, torch.float64, 20)
    two = two_workers.fit(train, torch.float64, 20)
    for a, b in zip(tensors(one), tensors(two), strict=True):
        assert b.dtype == torch.float64
        assert float((a - b).norm() / a.norm()) < 1e-9


def train_on_stream(worker: Worker, batches: Prepared) -> tuple[list[float], Weights]:
    """Three epochs; with what it saw of the first half of each batch."""
    stream, sums = Stream(batches, worker), []

    def noted(step: int) -> Batch:
        batch = stream(step)
        sums.append(float(batch.images[: BATCH // 2].double().sum()))
        return batch

    return sums, train(worker, torch.float64, 20, noted, DataSpec((3, 4, 4), 10, 0.5))


@pytest.mark.ray
def test_two_workers_stream_the_batches_of_one_with_ray_data_and_train_to_its_weights(
    two_workers: Launch, tmp_path: Path
):
    batches = Prepared(left_in_store(tmp_path, f"file://{tmp_path}/store"), True, BATCH, 3)
    seen_alone, one = launcher().fit(train_on_stream, batches)
    seen, two = two_workers.fit(train_on_stream, batches)
    assert seen == seen_alone
    for a, b in zip(tensors(one), tensors(two), strict=True):
        assert float((a - b).norm() / a.norm()) < 1e-9


@pytest.mark.ray
def test_an_error_in_the_loop_arrives_as_itself_from_the_worker_that_made_it(two_workers: Launch):
    with pytest.raises(UserError, match="row 7 is no picture") as caught:
        two_workers.fit(fail_on_the_last_worker, "row 7 is no picture")
    assert type(caught.value) is UserError
    (note,) = caught.value.__notes__
    assert note.startswith("on worker 1 of 2:")
    assert "in fail_on_the_last_worker" in note


@pytest.mark.ray
def test_small_trainings_side_by_side_have_a_worker_each_and_the_bits_of_this_process(two_workers: Launch):
    found = list(two_workers.fit_each(train_briefly, [1, 2, 3]))
    for steps, weights in zip((1, 2, 3), found):
        alone = launcher(0).fit(train_briefly, steps)
        assert all(map(torch.equal, tensors(weights), tensors(alone)))


def listening() -> Iterator[tuple[str, str]]:
    """Each process below this one that accepts connections, and where."""
    for process in psutil.Process().children(recursive=True):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                yield process.name(), connection.laddr.ip.removeprefix("::ffff:")


@pytest.mark.ray
def test_map_keeps_the_order_spreads_over_processes_and_hands_on_errors_on_loopback_alone(two_workers: Launch):
    squares, processes = zip(*two_workers.map(slow_square, range(8)), strict=True)
    assert squares == tuple(number * number for number in range(8))
    assert len(set(processes)) == 2
    assert os.getpid() not in processes
    assert {"gcs_server", "raylet"} < {name for name, _ in listening()}
    assert [found for found in listening() if found[1] != "127.0.0.1"] == []
    results = two_workers.map(slow_square, [3, -1, 5])
    assert next(results)[0] == 9
    with pytest.raises(UserError, match="-1 is negative"):
        next(results)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("sent", "code", "seconds"),
    [
        (signal.SIGTERM, 128 + signal.SIGTERM, 15),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, 90, marks=pytest.mark.slow),  # Ray's agents take a minute
    ],
)
def test_a_stopped_driver_leaves_no_ray_process_behind(sent: signal.Signals, code: int, seconds: float):
    driver = start(
        """
        from pipeline.launch.launcher import launcher
        from tests.pipeline.launch.test_launch import step_for_ever
        with launcher(1) as launch:
            launch.fit(step_for_ever)
        """,
        PYTHONUNBUFFERED="1",
    )
    started = psutil.Process(driver.pid).children(recursive=True)
    assert len([process for process in started if process.name().startswith("ray::")]) > 2
    driver.send_signal(sent)
    assert driver.wait(15) == code
    assert wait_for(lambda: not [process for process in started if is_alive(process)], seconds)


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
