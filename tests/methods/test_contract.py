"""The contract that the loop and the pipeline rely on, tested for every method."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.core.loop import TrainState, train_steps
from methods.core.rng import SeededRng, StepRng, sample_tiles
from methods.core.types import At, Generator
from tests.methods.every_method import BATCH, Case, batches, every_case, every_method

CASES = every_case()
GENERATORS = [case for case in CASES if hasattr(case.make(), "sample")]
GUIDES = [case for case in CASES if hasattr(case.make(), "guide")]


def trained(case: Case, state: TrainState, until: int) -> TrainState:
    """Train for ten steps, stopping at `until`."""
    steps = train_steps(case.make(), state, lambda step: batches(case, step), seed=3, batch=BATCH, steps=10)
    while state.step < until:
        next(steps)
    return state


def fresh(case: Case, seed: int = 3) -> TrainState:
    return case.fresh(seed)


def flat(state: TrainState) -> Tensor:
    """Every number that training changes: parameters, buffers and averages."""
    networks = [value for net in state.nets.values() for value in net.state_dict().values()]
    averages = [value for average in state.averages.values() for value in average.values()]
    return torch.cat([value.detach().double().flatten() for value in networks + averages])


def test_every_method_file_is_discovered() -> None:
    assert {"edm.EDM", "discriminator_guidance.Discriminator", "ddpm.DDPM", "gan.GAN"} <= set(every_method())
    assert {case.method for case in CASES} == set(every_method())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_five_and_five_steps_equal_ten_bit_for_bit(case: Case) -> None:
    whole = trained(case, fresh(case), 10)
    saved = io.BytesIO()
    torch.save(trained(case, fresh(case), 5).state_dict(), saved)
    torch.rand(7)  # whatever else happens in the process
    resumed = fresh(case, seed=99)
    resumed.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    assert torch.equal(flat(trained(case, resumed, 10)), flat(whole))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_players_are_named_apart_and_train_networks_that_are_built(case: Case) -> None:
    players, nets = case.make().players(), fresh(case).nets
    assert len({player.name for player in players}) == len(players)
    assert {player.net for player in players} <= nets.keys()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_loss_is_pure_and_moves_only_its_players_network(case: Case) -> None:
    method, nets, batch = case.make(), fresh(case).nets, batches(case, 0)
    batch = batch.each(lambda part: part.float() if part.is_floating_point() else part)
    for player in method.players():
        draws = method.draw(player.name, batch, StepRng(0, 0, player.name))
        assert {len(value) for value in draws.values()} <= {BATCH}
        kept_draws, kept_batch = copy.deepcopy(draws), copy.deepcopy(batch)
        kept_nets = copy.deepcopy({name: net.state_dict() for name, net in nets.items()})
        for name, net in nets.items():
            net.requires_grad_(name == player.net)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        loss, metrics = method.loss(player.name, nets, batch, draws, 0)
        assert torch.equal(torch.get_rng_state(), before)
        again, _ = method.loss(player.name, nets, batch.each(torch.clone), copy.deepcopy(draws), 0)
        assert torch.equal(loss, again)
        assert loss.shape == ()
        assert not any(value.requires_grad for value in metrics.values())
        assert_same({"draws": draws}, {"draws": kept_draws})
        assert_same({"batch": dict(enumerate(batch))}, {"batch": dict(enumerate(kept_batch))})
        assert_same({name: net.state_dict() for name, net in nets.items()}, kept_nets)
        loss.backward()
        moved = {name for name, net in nets.items() if any(p.grad is not None for p in net.parameters())}
        assert moved == {player.net}
        for net in nets.values():
            net.zero_grad(set_to_none=True)


@pytest.mark.parametrize("case", GENERATORS, ids=str)
def test_an_image_is_the_same_in_any_range_and_batch(case: Case) -> None:
    method, nets, sampling = ready(case)

    def sample(labels: Tensor | None, rng: Any) -> Tensor:
        return method.sample(nets, sampling, labels, rng)

    def images(seeds: range) -> Tensor:
        return torch.cat(list(sample_tiles(sample, seeds, case.label_of)))

    whole = images(range(100))
    assert whole.shape == (100, *case.spec.shape)
    assert whole.dtype == torch.float32
    assert torch.equal(images(range(70, 71)), whole[70:71])
    assert torch.equal(torch.cat([images(range(30)), images(range(30, 100))]), whole)
    alone = sample(torch.tensor([case.label_of(71)]), SeededRng([71]))
    torch.testing.assert_close(alone, whole[71:72], rtol=1e-5, atol=1e-5)  # without tiles: not to the last bit


@pytest.mark.parametrize("case", GENERATORS, ids=str)
def test_other_seeds_make_other_images(case: Case) -> None:
    method, nets, sampling = ready(case)
    made = method.sample(nets, sampling, torch.tensor([case.label_of(0)] * 4), SeededRng(range(4)))
    assert made.isfinite().all()
    assert len(made.flatten(1).unique(dim=0)) == 4


@pytest.mark.parametrize("case", GUIDES, ids=str)
def test_a_guides_log_weight_depends_on_one_image_only(case: Case) -> None:
    method: Any = case.make()
    nets = {name: net.eval() for name, net in method.build(case.spec).items()}
    labels, x = torch.arange(6) % case.spec.classes, torch.randn(6, *case.spec.shape)

    def weights(rows: slice) -> Tensor:
        guide = method.guide(nets, labels[rows], method.Use())
        return guide.weigh(x[rows], At(torch.full((6,), 0.7)[rows], 0), {})

    whole = weights(slice(6))
    assert whole.shape == (6,)
    torch.testing.assert_close(weights(slice(2, 3)), whole[2:3])


def ready(case: Case) -> tuple[Generator, dict[str, torch.nn.Module], Any]:
    """After a few steps, so that networks initialised to zeros have an output."""
    method: Any = case.make()
    nets = {name: net.eval().requires_grad_(False) for name, net in trained(case, fresh(case), 5).nets.items()}
    return method, nets, method.Sampling(**case.sampling)


def assert_same(computed: dict[str, dict[Any, Any]], wanted: dict[str, dict[Any, Any]]) -> None:
    for group, values in wanted.items():
        for name, value in values.items():
            if value is not None:
                assert torch.equal(computed[group][name], value), (group, name)
