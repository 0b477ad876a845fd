"""Many small models trained as one: their parameters in one tensor each, [M, ...], their steps in one batched step.

Each model has its own draws, weights of the loss, learning rates and averages, so it comes out as `train_steps` alone
would have made it, up to rounding. What it must share with the others is its method's `structure`.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from methods.core.loop import like
from methods.core.rng import StepRng, fold
from methods.core.shapes import per_sample
from methods.core.terms import Weighed
from methods.core.types import Adam, Batch, DataSpec, Nets, Player, Progress
from methods.nets.mixture_mlp import Hidden

Tensors = dict[str, Tensor]  # by parameter, each [M, *shape]


class Model(NamedTuple):
    """One of a stack."""

    method: Weighed
    seed: int


@dataclass
class StackState:
    """Everything a killed training needs to go on as if nothing had happened."""

    skeletons: dict[str, nn.Module]  # by network, without weights
    parameters: dict[str, Tensors]  # by network
    moments: dict[str, tuple[Tensors, Tensors]]  # Adam's first and second, by player
    averages: dict[str, Tensors]  # by player with an Ema
    step: int = 0

    @classmethod
    def fresh(
        cls, models: Sequence[Model], data: DataSpec, device: torch.device | str = "cpu", dtype=torch.float32
    ) -> "StackState":
        _check(models)
        built = []
        for model in models:
            torch.manual_seed(fold(model.seed, "init"))
            built.append({name: net.to(device, dtype).train() for name, net in model.method.build(data).items()})
        skeletons = {name: net.to("meta") for name, net in models[0].method.build(data).items()}
        for name, net in skeletons.items():
            _check_stackable(name, net)
        parameters = {
            name: {key: torch.stack([nets[name].get_parameter(key).detach() for nets in built]) for key, _ in
                   net.named_parameters()}
            for name, net in skeletons.items()
        }  # fmt: skip
        players = models[0].method.players()
        moments = {p.name: (_zeros(parameters[p.net]), _zeros(parameters[p.net])) for p in players}
        averages = {p.name: _copies(parameters[p.net]) for p in players if p.ema is not None}
        return cls(skeletons, parameters, moments, averages)

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "skeletons"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def weights(self, models: Sequence[Model]) -> list[dict[str, Tensors]]:
        """By model and network: what to sample with, averaged where a player keeps an average."""
        stacked = {name: dict(parameters) for name, parameters in self.parameters.items()}
        for player in models[0].method.players():
            if player.ema is not None:
                stacked[player.net].update(self.averages[player.name])
        return [
            {net: {key: value[m].detach().clone() for key, value in found.items()} for net, found in stacked.items()}
            for m in range(len(models))
        ]


def train_stack(
    models: Sequence[Model],
    state: StackState,
    batches: Callable[[int, int], Batch],
    *,
    batch: int,
    steps: int,
    precision: torch.dtype | None = None,
) -> Iterator[Tensors]:
    """Train all models from state.step to `steps`, yielding the terms of each step's losses, each [M].

    batches(seed, step): the batch of a model with that seed.
    """
    while state.step < steps:
        progress = Progress(state.step, batch, steps)
        whole = {model.seed: batches(model.seed, state.step) for model in models}
        metrics: Tensors = {}
        for players in zip(*(model.method.players() for model in models)):
            metrics |= _step(models, players, state, [whole[model.seed] for model in models], progress, precision)
        state.step += 1
        yield metrics


def _step(
    models: Sequence[Model],
    players: tuple[Player, ...],
    state: StackState,
    whole: list[Batch],
    progress: Progress,
    precision: torch.dtype | None,
) -> Tensors:
    name, net = players[0].name, players[0].net
    sample = next(iter(state.parameters[net].values()))
    draws = [
        model.method.draw(name, batch, StepRng(model.seed, progress.step, name)) for model, batch in zip(models, whole)
    ]
    parts = {key: part for key, part in whole[0]._asdict().items() if part is not None}
    local = {key: like(torch.stack([getattr(batch, key) for batch in whole]), sample) for key in parts}
    stacked = {key: like(torch.stack([d[key] for d in draws]), sample) for key in draws[0]}
    by_model = [model.method.weights(name, progress.step) for model in models]
    wanted = {key: None for weights in by_model for key in weights}
    leaves = {key: value.requires_grad_() for key, value in state.parameters[net].items()}
    lead = models[0].method

    def terms(parameters: dict[str, Tensors], batch: Tensors, draws: Tensors) -> Tensors:
        nets = {key: partial(_call, state.skeletons[key], found) for key, found in parameters.items()}
        return lead.terms(name, cast(Nets, nets), Batch(**batch), draws, wanted)

    parameters = {key: _lowered(found, state.skeletons[key], precision) for key, found in state.parameters.items()}
    found = vmap(terms)(parameters, local, stacked)
    weights = {key: sample.new_tensor([weights.get(key, 0.0) for weights in by_model]) for key in wanted}
    loss = torch.stack([(weights[key] * term).sum() for key, term in found.items()]).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    moving = {key: gradient for key, gradient in zip(leaves, gradients) if gradient is not None}
    for leaf in leaves.values():
        leaf.requires_grad_(False)
    rates = [player.optimiser.lr(progress) for player in players]
    _adam(leaves, moving, state.moments[name], rates, players[0].optimiser, progress.step + 1)
    if players[0].ema is not None:
        kept = [player.ema.decay(progress) for player in players if player.ema is not None]
        for key, average in state.averages[name].items():
            average.lerp_(leaves[key], _per_model([1 - decay for decay in kept], average))
    return {key: term.detach() for key, term in found.items()}


def _adam(
    parameters: Tensors,
    gradients: Tensors,
    moments: tuple[Tensors, Tensors],
    rates: Sequence[float],
    adam: Adam,
    count: int,
) -> None:
    """Step `count` = 1, 2, ... of torch.optim.Adam, with a learning rate per model."""
    first, second = adam.betas
    scale = (1 - second**count) ** 0.5
    steps = [-rate / (1 - first**count) for rate in rates]
    for key, gradient in gradients.items():
        mean, square = (moment[key] for moment in moments)
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        parameters[key].addcdiv_(mean * _per_model(steps, mean), (square.sqrt() / scale).add_(adam.eps))


def _lowered(parameters: Tensors, skeleton: nn.Module, precision: torch.dtype | None) -> Tensors:
    """Hidden layers in another precision, differentiably; first and last layers, and what Adam moves, stay."""
    if precision is None:
        return parameters
    hidden = {
        f"{name}.{part}"
        for name, layer in skeleton.named_modules()
        if isinstance(layer, Hidden) and min(layer.weight.shape) >= 16
        for part in ("weight", "bias")
    }
    return {key: value.to(precision) if key in hidden else value for key, value in parameters.items()}


def _call(skeleton: nn.Module, parameters: Tensors, *given: Tensor | None) -> Any:
    return functional_call(skeleton, parameters, given, strict=True)


def _per_model(values: Sequence[float], beside: Tensor) -> Tensor:
    """[M, 1, ..., 1] so that it broadcasts over each model's part of `beside` [M, ...]."""
    return per_sample(beside.new_tensor(values), beside)


def _zeros(parameters: Tensors) -> Tensors:
    return {key: torch.zeros_like(value) for key, value in parameters.items()}


def _copies(parameters: Tensors) -> Tensors:
    return {key: value.clone() for key, value in parameters.items()}


def groups(methods: Sequence[Weighed]) -> list[list[int]]:
    """Their numbers, those that may train as one together."""
    found: dict[Hashable, list[int]] = {}
    for number, method in enumerate(methods):
        found.setdefault((type(method), method.structure()), []).append(number)
    return list(found.values())


def _check(models: Sequence[Model]) -> None:
    """One line for what cannot be trained as one."""
    apart = groups([model.method for model in models])
    if len(apart) > 1:
        raise ValueError(f"models {apart[0][0]} and {apart[1][0]} differ in structure: stack them apart")
    for model in models:
        for player in model.method.players():
            plain = Adam(player.optimiser.lr, player.optimiser.betas, player.optimiser.eps)
            if player.optimiser != plain or player.every != 1:
                raise ValueError(f"player {player.name}: a stack knows plain Adam at every step only")


def _check_stackable(name: str, net: nn.Module) -> None:
    if any(True for _ in net.buffers()):
        raise ValueError(f"network {name} keeps state in buffers: train such models one by one")
    if any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in net.modules()):
        raise ValueError(f"network {name} has dropout: train such models one by one, or without it")
