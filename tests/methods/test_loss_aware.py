"""Training times by their losses: probabilities, the history, restarts and several workers."""

import io

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from methods.core.loop import TrainState, train_steps
from methods.core.rng import SeededRng, StepRng
from methods.core.training.loss_aware import LOSSES_PER_TIME, UNIFORM_SHARE, LossHistory
from methods.core.types import Batch, Remembering
from methods.iddpm import IDDPM, Sampling
from tests.methods.toy import LABELS, POINTS, X, in_lockstep, shared

AWARE = IDDPM(steps=5, objective="kl", times="loss-aware", net="mlp", width=16, depth=1)
PLAIN = IDDPM(steps=5, objective="kl", net="mlp", width=16, depth=1)


def batch(step: int) -> Batch:
    return Batch(X[:32], LABELS[:32])


def trained(state: TrainState, steps: int, rank: int = 0, world: int = 1, **options) -> TrainState:
    mine = shared(batch, 32, rank, world)
    for _ in train_steps(AWARE, state, mine, seed=0, batch=32, steps=steps, rank=rank, world=world, **options):
        pass
    return state


def fresh() -> TrainState:
    return TrainState.fresh(AWARE, POINTS, seed=0, dtype=torch.float64)


def history(state: TrainState) -> LossHistory:
    net = state.nets["history"]
    assert isinstance(net, LossHistory)
    return net


def flat(state: TrainState) -> Tensor:
    return torch.cat([value.double().flatten() for net in state.nets.values() for value in net.state_dict().values()])


def test_times_are_uniform_until_each_was_drawn_often_enough() -> None:
    memory = LossHistory(4)
    memory.remember(
        torch.tensor([0] * 50 + [1, 2] * LOSSES_PER_TIME + [3] * (LOSSES_PER_TIME - 1)),
        torch.rand(50 + 3 * LOSSES_PER_TIME - 1),
    )
    assert_close(memory.probabilities(), torch.full((4,), 0.25).double())
    memory.remember(torch.tensor([3]), torch.tensor([5.0]))
    assert memory.probabilities()[3] > 0.25


def test_a_time_is_drawn_as_often_as_the_root_mean_square_of_its_last_losses() -> None:
    memory, losses = LossHistory(2), torch.arange(1.0, 15.0)
    memory.remember(torch.zeros(14, dtype=torch.int64), losses)  # more than are kept, in one step
    memory.remember(torch.ones(7, dtype=torch.int64), torch.full((7,), 9.0))
    memory.remember(torch.tensor([1, 0, 1, 1]), torch.tensor([2.0, 20.0, 3.0, 4.0]))
    last = [torch.tensor([*range(6, 15), 20.0]), torch.tensor([9.0] * 7 + [2.0, 3.0, 4.0])]
    weights = torch.stack([kept.double().square().mean().sqrt() for kept in last])
    assert_close(memory.probabilities(), (1 - UNIFORM_SHARE) * weights / weights.sum() + UNIFORM_SHARE / 2)


def test_weights_make_the_mean_that_of_uniform_times() -> None:
    memory, losses = LossHistory(5), torch.tensor([1.0, 8.0, 0.5, 3.0, 2.0])
    memory.remember(torch.arange(5).repeat(LOSSES_PER_TIME), losses.repeat(LOSSES_PER_TIME))
    index, weights = memory.draw((torch.arange(100_000) + 0.5) / 100_000)
    assert_close(index.bincount() / 100_000, memory.probabilities().float(), atol=1e-4, rtol=0)
    assert_close((weights * losses[index]).mean(), losses.double().mean(), atol=1e-3, rtol=0)


def test_losses_at_even_times_are_those_of_uniform_training() -> None:
    """With an empty history, the same indices give the same loss."""
    aware, plain = fresh().nets, TrainState.fresh(PLAIN, POINTS, seed=0, dtype=torch.float64).nets
    draws = AWARE.draw("denoiser", batch(0), StepRng(0, 0, "denoiser"))
    same = {"index": (draws["time"] * 5).long(), "noise": draws["noise"].double()}
    data = Batch(X[:32].double(), LABELS[:32])
    computed, metrics = AWARE.loss("denoiser", aware, data, draws | {"noise": same["noise"]}, 0)
    assert_close(computed, PLAIN.loss("denoiser", plain, data, same, 0)[0])
    assert_close(metrics["notes"][:, 0], same["index"].double())


def test_the_loop_records_every_sample_of_every_step() -> None:
    assert isinstance(AWARE, Remembering)
    state = trained(fresh(), 9)
    assert history(state).seen.sum() == 9 * 32
    assert history(state).probabilities().std() > 0
    images = AWARE.sample(state.nets, Sampling(spacing="3"), None, SeededRng(range(2)))
    assert images.isfinite().all()


def test_a_restart_continues_with_the_recorded_losses() -> None:
    whole, saved = trained(fresh(), 14), io.BytesIO()
    torch.save(trained(fresh(), 9).state_dict(), saved)
    resumed = TrainState.fresh(AWARE, POINTS, seed=99, dtype=torch.float64)
    resumed.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    assert torch.equal(flat(trained(resumed, 14)), flat(whole))


def test_two_workers_record_the_same_losses_as_one() -> None:
    alone, twins = trained(fresh(), 14), [fresh(), fresh()]
    in_lockstep(lambda rank, reduce: trained(twins[rank], 14, rank, 2, all_reduce=reduce))
    for twin in twins:
        assert torch.equal(history(twin).seen, history(alone).seen)
        assert_close(flat(twin), flat(alone), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("objective", ["mse", "rescaled-kl"])
def test_methods_with_uniform_times_have_no_history_network(objective) -> None:
    assert set(IDDPM(objective=objective, net="mlp", steps=40).build(POINTS)) == {"denoiser"}
