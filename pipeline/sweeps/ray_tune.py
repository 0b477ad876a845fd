"""Ray Tune for the trials of a sweep: so many at a time, each in one process that is used again for the next.

A trial holds one CPU and its training runs inside it, so there is nothing to wait for that another trial holds. Tune
starts the trials, and once more what a killed process left; results and what is resumed are the store's.
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
from pipeline.sweeps.trial import Outcome, Sweeping, run_trial
from pipeline.sweeps.trials import Trial

os.environ |= {  # read when Tune is imported or starts
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C stays Python's
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
}

OPTION = "--concurrent"
TRIES = 2  # of a trial whose process dies
SHARE = 1e-4  # Ray's least part of a GPU


@contextmanager
def tune_trials(
    concurrent: int, address: str | None
) -> Iterator[Callable[[list[Trial], Sweeping, Callable[[Outcome], None]], None]]:
    """With a private Ray, or in the cluster at `address`: runs trials and tells of each as it ends."""
    with ExitStack() as stack:
        if address is None:
            gpus = torch.cuda.device_count()
            check_room(concurrent, machine_room(gpus), "this machine has", False, OPTION)
            folder = stack.enter_context(own_folder())
            stack.enter_context(private_ray(folder, concurrent, gpus))
        else:
            folder = stack.enter_context(own_folder())
            room = stack.enter_context(joined_cluster(address))
            check_room(concurrent, room, f"the cluster at {address} has", False, OPTION)
            wait_for_room(1, f"the cluster at {address}", False, OPTION)
            gpus = room.get("GPU", 0)
        yield partial(_run, concurrent, gpus, folder)


def _run(
    concurrent: int,
    gpus: float,
    folder: Path,
    trials: list[Trial],
    sweeping: Sweeping,
    done: Callable[[Outcome], None],
) -> None:
    resources = {"CPU": 1.0, "GPU": min(1.0, gpus / concurrent // SHARE * SHARE)}
    trainable = tune.with_resources(tune.with_parameters(_Actor, trials=trials, sweeping=sweeping), resources)
    tuner = tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(folder / "tune"),
            failure_config=tune.FailureConfig(max_failures=TRIES - 1),
            callbacks=[_Told(trials, done)],
            verbose=0,
        ),
    )
    with stoppable():
        tuner.fit()


class _Actor(tune.Trainable):
    """Runs one trial after the other."""

    def setup(  # type: ignore[override]  # `with_parameters` passes the rest
        self, config: dict[str, Any], trials: list[Trial], sweeping: Sweeping
    ) -> None:
        self.trials, self.sweeping = trials, sweeping
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial = self.trials[new_config["trial"]]
        return True

    def step(self) -> dict[str, Any]:
        return {"done": True, "outcome": list(run_trial(self.trial, self.sweeping, InProcess()))}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the store has everything."""

    def load_checkpoint(self, checkpoint: object) -> None:
        """Nothing."""


class _Told(tune.Callback):
    """Passes on what trials leave."""

    def __init__(self, trials: list[Trial], done: Callable[[Outcome], None]) -> None:
        self.trials, self.done = trials, done

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self.done(Outcome(*trial.last_result["outcome"]))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        error = trial.pickled_error_file and trial.get_error()
        reason = one_line(error) if isinstance(error, BaseException) else "killed from outside, or out of memory"
        self.done(Outcome(self.trials[trial.config["trial"]].id, None, f"its process died {TRIES} times: {reason}"))
