"""Models trained as one against the same models trained alone."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from methods.core.loop import TrainState, batch_indices, train_steps
from methods.core.training.stacked import Model, StackState, groups, train_stack
from methods.core.types import Batch, DataSpec
from methods.siddm import SIDDM

DATA = DataSpec((2,), 0, 7.0)
POINTS = 7 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
BATCH = 32
PLAIN = SIDDM(afd="renoise", c_target=None, clean_weight=None, ema=0.9, width=24)
FOURIER = replace(PLAIN, net="mixture-fourier", trained_times="visited", generator_lr=1e-3, discriminator_lr=1e-3)
MODELS = (
    Model(replace(FOURIER, afd_weight_last=0.1, afd_anneal=(20, 70)), 0),
    Model(replace(FOURIER, steps=2, r1_gamma=0.03, r1_every=8, lr_linear_from=0.4), 1),
    Model(replace(FOURIER, steps=1, afd_weight=0.0, r1_gamma=0.3, r1_every=4, ema_warmup=True, generator_lr=2e-4), 1),
)
RELATIVISTIC = replace(PLAIN, game="relativistic", r1_gamma=0.1)
PAIRED = (Model(RELATIVISTIC, 0), Model(replace(RELATIVISTIC, steps=2, r2_gamma=0.0, afd_weight=0.2), 1))
PLAYERS = FOURIER.players()
ALL_TIMES = (Model(PLAIN, 0), Model(replace(PLAIN, steps=3, adversarial_weight=0.5, afd_weight=0.2), 0))


def batches(seed: int, step: int) -> Batch:
    return Batch(POINTS[batch_indices(len(POINTS), BATCH, seed, step)])


def together(
    models: tuple[Model, ...], steps: int, dtype: torch.dtype = torch.float32, compiled: bool = False
) -> StackState:
    state = StackState.fresh(models, DATA, dtype=dtype)
    for _ in train_stack(models, state, batches, batch=BATCH, steps=steps, compiled=compiled):
        pass
    return state


def alone(model: Model, steps: int, dtype: torch.dtype = torch.float32) -> dict[str, dict[str, Tensor]]:
    state = TrainState.fresh(model.method, DATA, model.seed, dtype=dtype)
    for _ in train_steps(
        model.method, state, lambda step: batches(model.seed, step), seed=model.seed, batch=BATCH, steps=steps
    ):
        pass
    return state.weights(model.method.players())


@pytest.mark.parametrize(
    ("models", "dtype", "rounding"),
    [(MODELS, torch.float32, 2e-4), (MODELS, torch.float64, 1e-9), (ALL_TIMES, torch.float64, 1e-9)],
)
def test_models_trained_as_one_equal_those_trained_alone(
    models: tuple[Model, ...], dtype: torch.dtype, rounding: float
) -> None:
    by_model = together(models, 100, dtype).weights(models[0].method.players())
    for model, weights in zip(models, by_model):
        assert_close(weights, alone(model, 100, dtype), rtol=rounding, atol=rounding)


def test_relativistic_models_trained_as_one_equal_those_trained_alone() -> None:
    by_model = together(PAIRED, 20, torch.float64).weights(PAIRED[0].method.players())
    for model, weights in zip(PAIRED, by_model):
        assert_close(weights, alone(model, 20, torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.slow  # minutes of compiling
def test_compiled_losses_train_as_others_do_with_a_term_that_comes_and_goes() -> None:
    pair, steps = (
        tuple(model._replace(method=replace(cast(SIDDM, model.method), r1_every=3)) for model in MODELS[1:]),
        7,
    )
    assert_close(
        together(pair, steps, compiled=True).parameters, together(pair, steps).parameters, rtol=1e-3, atol=1e-4
    )


def test_only_models_of_one_structure_train_as_one() -> None:
    other = replace(FOURIER, sees_pair=True)
    assert groups([FOURIER, other, replace(FOURIER, steps=16), replace(other, afd_weight=0.0)]) == [[0, 2], [1, 3]]
    with pytest.raises(ValueError, match="models 0 and 1 differ in structure"):
        StackState.fresh([Model(FOURIER, 0), Model(other, 0)], DATA)


def test_networks_with_dropout_are_refused() -> None:
    method = SIDDM(net="unet", width=32, depth=1, channel_mult=(1, 2), head_width=32, dropout=0.1)
    with pytest.raises(ValueError, match="dropout"):
        StackState.fresh([Model(method, 0)], DataSpec((1, 8, 8), 0, 0.5))


def test_five_and_five_steps_equal_ten_bit_for_bit() -> None:
    whole = together(MODELS, 10)
    first = StackState.fresh(MODELS, DATA)
    steps = train_stack(MODELS, first, batches, batch=BATCH, steps=10)
    for _ in range(5):
        next(steps)
    resumed = StackState.fresh(tuple(model._replace(seed=99) for model in MODELS), DATA)
    resumed.load_state_dict(first.state_dict())
    for _ in train_stack(MODELS, resumed, batches, batch=BATCH, steps=10):
        pass
    assert_close(resumed.weights(PLAYERS), whole.weights(PLAYERS), rtol=0, atol=0)
