"""Ray Tune for the trials of a sweep: so many at a time, each in one process that is used again for the next.

A trial holds one CPU and its training runs inside it, so no trial waits for what another one holds. Tune starts the
trials, and restarts those whose process was killed; results and training state are in the store.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from pipeline.console import one_line
from pipeline.launch.cluster import check_room, joined_cluster, machine_room, own_folder, private_ray, wait_for_room
from pipeline.launch.launcher import InProcess
from pipeline.launch.ray_errors import stoppable
from pipeline.sweeps.trial import Report, SweepContext, TrialResult, run_trial
from pipeline.sweeps.trials import Trial

os.environ |= {  # read when Tune is imported or starts
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # so that Python handles Ctrl-C
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
}

OPTION = "--concurrent"
MAX_PROCESSES = 2  # of one trial, if they die
LEAST_GPU = 1e-4  # Ray's smallest fraction of a GPU


@contextmanager
def tune_trials(concurrent: int, address: str | None) -> Iterator[Callable[[list[Trial], SweepContext, Report], None]]:
    """A function that runs trials on a private Ray, or on the cluster at `address`, and reports each as it ends."""
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        if address is None:
            gpus = torch.cuda.device_count()
            check_room(concurrent, machine_room(gpus), "this machine has", False, OPTION)
            stack.enter_context(private_ray(folder, concurrent, gpus))
        else:
            room = stack.enter_context(joined_cluster(address))
            check_room(concurrent, room, f"the cluster at {address} has", False, OPTION)
            wait_for_room(1, f"the cluster at {address}", False, OPTION)
            gpus = room.get("GPU", 0)
        yield partial(_run, concurrent, gpus, folder)


def _run(
    concurrent: int, gpus: float, folder: Path, trials: list[Trial], context: SweepContext, report: Report
) -> None:
    resources = {"CPU": 1.0, "GPU": min(1.0, gpus / concurrent // LEAST_GPU * LEAST_GPU)}
    trainable = tune.with_resources(tune.with_parameters(_Actor, trials=trials, context=context), resources)
    tuner = tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(folder / "tune"),
            failure_config=tune.FailureConfig(max_failures=MAX_PROCESSES - 1),
            callbacks=[_Reporter(trials, report)],
            verbose=0,
        ),
    )
    with stoppable():
        tuner.fit()


class _Actor(tune.Trainable):
    """Runs one trial after the other."""

    def setup(  # type: ignore[override]  # `with_parameters` passes the rest
        self, config: dict[str, Any], trials: list[Trial], context: SweepContext
    ) -> None:
        self.trials, self.context = trials, context
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial = self.trials[new_config["trial"]]
        return True

    def step(self) -> dict[str, Any]:
        return {"done": True, "result": list(run_trial(self.trial, self.context, InProcess()))}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: training state is in the store."""

    def load_checkpoint(self, checkpoint: object) -> None:
        """Nothing."""


class _Reporter(tune.Callback):
    """Reports the results of trials."""

    def __init__(self, trials: list[Trial], report: Report) -> None:
        self.trials, self.report = trials, report

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.report(TrialResult(*trial.last_result["result"]))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        error = trial.pickled_error_file and trial.get_error()
        reason = one_line(error) if isinstance(error, BaseException) else "killed from outside, or out of memory"
        died = f"its process died {MAX_PROCESSES} times: {reason}"
        self.report(TrialResult(self.trials[trial.config["trial"]].id, None, died))
