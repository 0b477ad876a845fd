import signal
import time

import pytest

from pipeline.context import Worker
from pipeline.errors import Interrupted
from pipeline.launch.signals import run_as_only_worker
from pipeline.store.process_id import ProcessId
from tests.support.children import start, wait_for

SLEEPS = "import time; print('here', flush=True); time.sleep(600)"


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


def test_ctrl_c_lets_a_training_save_and_print_its_step_and_a_second_one_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def loop(worker: Worker) -> None:
        assert not worker.must_stop()
        signal.raise_signal(signal.SIGINT)
        assert worker.must_stop()
        raise Interrupted("step 3 of 9")

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_as_only_worker(loop)
    assert capsys.readouterr().err == "told to stop; step 3 of 9 is saved: the same command goes on from there\n"
    with pytest.raises(KeyboardInterrupt):
        run_as_only_worker(lambda worker: [signal.raise_signal(signal.SIGINT) for _ in range(2)])
    assert capsys.readouterr().err == ""
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
