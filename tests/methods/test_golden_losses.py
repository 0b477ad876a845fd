"""Thirty losses per player of every method, as recorded: a refactor leaves them alone.

A change of numerics, or a new method, records them again (and says why in the commit):

    python -m tests.methods.test_golden_losses            # all
    python -m tests.methods.test_golden_losses edm.EDM    # cases whose name begins so
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from methods.core.loop import TrainState, train_steps
from methods.core.rng import StepRng
from methods.core.types import Batch, DataSpec, Draws, Metrics, Nets, Player, Trainable
from tests.methods.every_method import BATCH, Case, batches, every_case, every_method

FILE = Path(__file__).with_name("golden_losses.json")
STEPS = 30
RECORDED: dict[str, dict[str, list[float]]] = json.loads(FILE.read_text()) if FILE.exists() else {}
RECORD_AGAIN = "python -m tests.methods.test_golden_losses"


class LossRecorder:
    """A method that records its losses, by player."""

    def __init__(self, method: Trainable) -> None:
        self.method = method
        self.losses: dict[str, list[float]] = {}

    def players(self) -> tuple[Player, ...]:
        return self.method.players()

    def build(self, data: DataSpec) -> dict[str, torch.nn.Module]:
        return self.method.build(data)

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        return self.method.draw(player, batch, rng)

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        loss, metrics = self.method.loss(player, nets, batch, draws, step)
        self.losses.setdefault(player, []).append(loss.item())
        return loss, metrics


def losses_of(case: Case) -> dict[str, list[float]]:
    """By player, in float64."""
    method = LossRecorder(case.make())
    state = TrainState.fresh(method, case.spec, seed=0, dtype=torch.float64)
    for _ in train_steps(method, state, lambda step: batches(case, step), seed=0, batch=BATCH, steps=STEPS):
        pass
    return method.losses


@pytest.mark.parametrize("case", every_case(), ids=str)
def test_losses_are_as_recorded(case: Case) -> None:
    assert str(case) in RECORDED, f"no losses are recorded for {case}: {RECORD_AGAIN} {case}"
    computed, recorded = losses_of(case), RECORDED[str(case)]
    assert computed.keys() == recorded.keys()
    for player, losses in recorded.items():
        assert computed[player] == pytest.approx(losses, rel=1e-4, abs=1e-12), f"{player}: see {RECORD_AGAIN}"


def test_every_method_has_recorded_losses_and_nothing_else_has() -> None:
    assert {name.partition(":")[0] for name in RECORDED} == set(every_method())
    assert set(RECORDED) == {str(case) for case in every_case()}


def record(prefix: str) -> None:
    cases = every_case()
    kept = {str(case): RECORDED[str(case)] for case in cases if str(case) in RECORDED}
    fresh = {str(case): losses_of(case) for case in cases if str(case).startswith(prefix)}
    FILE.write_text("{\n" + ",\n".join(_lines(kept | fresh)) + "\n}\n")
    print(f"{FILE.name}: recorded {', '.join(fresh) or 'nothing'}")


def _lines(recorded: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    """A case each, a line per player."""
    for name, by_player in sorted(recorded.items()):
        rounded = {player: [float(f"{loss:.10g}") for loss in losses] for player, losses in by_player.items()}
        players = ",\n".join(f"  {json.dumps(player)}: {json.dumps(losses)}" for player, losses in rounded.items())
        yield f" {json.dumps(name)}: {{\n{players}\n }}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    record(sys.argv[1] if len(sys.argv) > 1 else "")
