"""Averages of weights that a training stores now and then, and the average of another length made of them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from methods.core.loop import TrainState
from methods.core.posthoc import LONGEST, Profile, coefficients
from methods.core.types import Nets, Player
from pipeline.context import State
from pipeline.data.artifacts import Draft
from pipeline.errors import UserError

FOLDER = "averages"


def snapshot_steps(steps: int, snapshots: int) -> frozenset[int]:
    """Evenly spaced, the last step among them."""
    return frozenset(-(-steps * number // snapshots) for number in range(1, snapshots + 1))


def save_averages(state: State, step: int, training: TrainState, players: Iterable[Player]) -> None:
    """Of every length and network, as training state: a file named after the step."""
    nets = {player.name: player.net for player in players}
    averages = {
        f"{length}/{nets[player]}/{name}": value.contiguous()
        for length, by_player in training.posthoc.items()
        for player, average in by_player.items()
        for name, value in average.items()
    }
    state.save(_file(step), save(averages))


def write_averages(out: Draft, state: State, lengths: Sequence[float], steps: Iterable[int], batch: int) -> None:
    """Move the stored averages into the artifact; note lengths and images seen."""
    (out.path / FOLDER).mkdir()
    ordered = sorted(steps)
    for step in ordered:
        (out.path / FOLDER / _file(step)).write_bytes(state.load(_file(step)) or b"")
    out.facts["averages"] = {"lengths": list(lengths), "steps": ordered, "batch": batch}


def load_average(nets: Nets, folder: Path, facts: Mapping[str, Any], length: float) -> None:
    """Give a run's networks the average of a relative length at the end of its training.

    facts: of the run. UserError for a run that stored no averages, and for a length without a profile.
    """
    if "averages" not in facts:
        raise UserError(f"ema: {length} came, but this run stored no averages: set its train.ema_lengths, [0.05, 0.1]")
    if not 0 < length <= LONGEST:
        raise UserError(f"ema: {length} came, a relative length above 0 and at most {LONGEST} was wanted")
    lengths, steps, batch = (facts["averages"][name] for name in ("lengths", "steps", "batch"))
    stored = [Profile(step * batch, each) for step in steps for each in lengths]
    shares = iter(coefficients(stored, Profile(steps[-1] * batch, length)).tolist())
    total: dict[str, Tensor] = {}
    for step in steps:
        tensors = load_file(folder / FOLDER / _file(step))
        for each in lengths:
            share, prefix = next(shares), f"{each}/"
            for name in (name for name in tensors if name.startswith(prefix)):
                key = name.removeprefix(prefix)
                total[key] = total.get(key, torch.zeros((), dtype=torch.float64)) + share * tensors[name].double()
    for net in {key.partition("/")[0] for key in total}:
        own = {key.removeprefix(f"{net}/"): value for key, value in total.items() if key.startswith(f"{net}/")}
        nets[net].load_state_dict(own, strict=False)  # buffers, and parameters that were not trained, stay


def _file(step: int) -> str:
    return f"step-{step}.safetensors"
