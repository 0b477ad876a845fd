import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.store.process_id import ProcessId
from tests.support.children import ROOT, kill, start, wait_for

SLEEPS = "import time; print('here', flush=True); time.sleep(600)"

STAGE = """
import sys, time
from pathlib import Path
from pipeline.launch.signals import die_with_parent, on_sigterm
from pipeline.store.process_id import ProcessId
on_sigterm()
die_with_parent()
Path(sys.argv[1]).write_text(" ".join(map(str, ProcessId.current())))
try:
    time.sleep(600)
finally:
    Path(sys.argv[1]).with_name("cleaned").touch()
"""

STARTER = """
import os, subprocess, sys
stage = subprocess.Popen(["/bin/sh", "-c", sys.argv[1]], env=os.environ | {"DVC_STAGE": "pretrain@edm"})
print("here", flush=True)
stage.wait()
"""


def process_in(file: Path) -> ProcessId:
    assert wait_for(lambda: file.exists() and file.read_text(), 10)
    host, pid, started = file.read_text().split()
    return ProcessId(host, int(pid), float(started))


def test_a_process_is_alive_until_it_ends_even_before_its_parent_has_noticed():
    child = start(SLEEPS)
    process = ProcessId.current()._replace(pid=child.pid, started=time.time())
    assert process.is_alive()
    child.kill()
    assert wait_for(lambda: not process.is_alive(), 2)
    child.communicate()
    assert not process.is_alive()


def test_a_later_process_with_the_same_number_is_another_one():
    assert ProcessId.current().is_alive()
    assert not ProcessId.current()._replace(started=time.time() - 3600).is_alive()


def test_nothing_is_known_of_processes_on_other_machines():
    assert ProcessId("another-machine", 1, 0.0).is_alive()
    assert not ProcessId("another-machine", 1, 0.0).is_here


def test_a_terminated_process_leaves_through_every_finally_even_when_terminated_again():
    child = start(
        """
        import os, signal, time
        from pipeline.launch.signals import on_sigterm
        on_sigterm()
        try:
            print("here", flush=True)
            time.sleep(600)
        except Exception:
            print("taken for an error")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            print("cleaned", flush=True)
        """
    )
    child.terminate()
    assert child.communicate() == ("cleaned\n", "")
    assert child.returncode == 143


@pytest.mark.parametrize("shell", ["becomes", "waits for"])
def test_a_stage_stops_in_order_when_dvc_is_killed_above_a_shell_that(shell: str, tmp_path: Path):
    (tmp_path / "stage.py").write_text(STAGE)
    command = f"{sys.executable} {tmp_path}/stage.py {tmp_path}/stage"
    command = f"exec {command}" if shell == "becomes" else f"{command}; true"
    dvc = start(STARTER, command, PYTHONPATH=str(ROOT))
    stage = process_in(tmp_path / "stage")
    assert stage.is_alive()
    dvc.kill()
    assert wait_for(lambda: not stage.is_alive(), 3)
    assert (tmp_path / "cleaned").exists()
    dvc.communicate()


def test_a_stage_that_hangs_when_dvc_is_killed_is_killed_with_its_children(tmp_path: Path):
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    hang = "while True:\n    signal.pause()\n"
    (tmp_path / "stage.py").write_text(
        "import pipeline.launch.signals, signal, subprocess, sys\n"
        "from pathlib import Path\n"
        "pipeline.launch.signals.GRACE_SECONDS = 0.5\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = pipeline.launch.signals.psutil.Process({child}.pid)\n"
        "pipeline.launch.signals.die_with_parent()\n"
        "Path(sys.argv[1]).write_text(' '.join(map(str, pipeline.store.process_id.ProcessId.of(child))))\n" + hang
    )
    dvc = start(STARTER, f"{sys.executable} {tmp_path}/stage.py {tmp_path}/child; true", PYTHONPATH=str(ROOT))
    child_of_stage = process_in(tmp_path / "child")
    dvc.kill()
    assert wait_for(lambda: not child_of_stage.is_alive(), 4)
    dvc.communicate()


def test_without_dvc_a_command_outlives_its_shell(tmp_path: Path):
    (tmp_path / "stage.py").write_text(STAGE)
    command = f"{sys.executable} {tmp_path}/stage.py {tmp_path}/stage"
    shell = start(
        STARTER.replace(', env=os.environ | {"DVC_STAGE": "pretrain@edm"}', ""), command, PYTHONPATH=str(ROOT)
    )
    stage = process_in(tmp_path / "stage")
    shell.kill()
    time.sleep(1.0)
    assert stage.is_alive()
    os.kill(stage.pid, signal.SIGTERM)
    assert wait_for(lambda: not stage.is_alive(), 3)
    kill(shell)


@pytest.mark.parametrize("tail", ["", "; true"])
def test_a_stage_does_not_outlive_a_real_dvc_that_is_killed(tmp_path: Path, tail: str):
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  edm:\n    cmd: {sys.executable} stage.py {tmp_path}/stage{tail}\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(tmp_path)}
    program = shutil.which("dvc", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "dvc"
    subprocess.run([program, "init", "--no-scm", "-q"], cwd=tmp_path, env=environment, check=True)
    with (tmp_path / "log").open("wb") as log:
        dvc = subprocess.Popen([program, "repro"], cwd=tmp_path, env=environment, stdout=log, stderr=log)
    stage = process_in(tmp_path / "stage")
    dvc.kill()
    assert wait_for(lambda: not stage.is_alive(), 3)
    assert (tmp_path / "cleaned").exists()
    dvc.wait()
