"""Promises that a cluster breaks: a GPU that is not there, a node about to go; and what a killed driver leaves."""

import subprocess
from pathlib import Path

import pytest
import ray
import torch

from pipeline.context import Worker
from tests.pipeline.launch.test_launch import step_for_ever
from tests.pipeline.launch.test_submit import driver, started
from tests.support.children import kill, start
from tests.support.toy_study import BIN

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is there")
def test_a_promised_gpu_that_is_missing_is_named_with_its_node(tmp_path: Path) -> None:
    code = """
    from pipeline.errors import UserError
    from tests.pipeline.launch.test_launch import step_for_ever
    with launcher(1, address) as launch:
        for call in (lambda: list(launch.map(abs, [-1])), lambda: launch.fit(step_for_ever)):
            try:
                call()
            except UserError as error:
                print(error)
    """
    with started("--num-gpus", "1") as head:
        child = driver(head, tmp_path, head.token, code)
    lines = child.stdout.splitlines()
    assert len(lines) == 2, child.stderr
    assert all("promised a GPU, but torch" in line and "or start its Ray with --num-gpus 0" in line for line in lines)


def test_a_loop_is_told_that_its_node_is_about_to_go(tmp_path: Path) -> None:
    code = """
    from tests.pipeline.dag.test_promises import drain_and_step
    with launcher(1, address) as launch:
        launch.fit(drain_and_step, address)
    """
    with started() as head:
        child = driver(head, tmp_path, head.token, code)
    assert "Interrupted: told to stop; what there was is saved: the same command goes on from there" in child.stderr


def test_a_killed_driver_leaves_no_placement_group_on_the_cluster(tmp_path: Path) -> None:
    fit = """
    import sys
    from pipeline.launch.launcher import launcher
    from tests.pipeline.launch.test_launch import step_for_ever
    with launcher(1, sys.argv[1]) as launch:
        launch.fit(step_for_ever)
    """
    look = """
    from ray.util import placement_group_table
    with launcher(2, address):  # both CPUs are free again
        print([group["state"] for group in placement_group_table().values()])
    """
    with started() as head:
        kill(start(fit, head.gcs, RAY_AUTH_TOKEN=head.token, HOME=str(tmp_path), PYTHONUNBUFFERED="1"))
        child = driver(head, tmp_path, head.token, look)
    assert child.stdout == "['REMOVED']\n", child.stderr


def drain_and_step(worker: Worker, address: str) -> None:
    """What `ray start --block` does at SIGTERM, and an autoscaler when a spot machine is called back."""
    node = ray.get_runtime_context().get_node_id()
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    command = [BIN / "ray", "drain-node", "--address", address, "--node-id", node, *why]
    subprocess.run([*command, "--deadline-remaining-seconds", "600"], check=True, capture_output=True)
    step_for_ever(worker)
