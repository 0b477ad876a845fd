import time

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
