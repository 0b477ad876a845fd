"""Many small models trained as one: the parameters of a network in one tensor [M, P], their steps in one batched step.

Each model has its own draws, weights of the loss, learning rates and averages, so its result is that of `train_steps`
up to rounding. Models of one stack must have equal `structure`.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim.adam import adam as fused_adam

from methods.core.dropout import Dropout
from methods.core.loop import like
from methods.core.rng import StepRng, fold, rows_of_worker
from methods.core.training.terms import Weighed
from methods.core.types import Adam, Batch, DataSpec, Nets, Player, Progress

Tensors = dict[str, Tensor]


class Model(NamedTuple):
    """One model of a stack."""

    method: Weighed
    seed: int


@dataclass
class StackState:
    """Everything a killed training needs to resume to the same bits."""

    skeletons: dict[str, nn.Module]  # by network, without weights
    parameters: Tensors  # by network [M, P]: its parameters one after another
    moments: dict[str, tuple[Tensor, Tensor]]  # Adam's first and second, by player, laid out like its network
    averages: Tensors  # by player with an Ema, laid out like its network
    step: int = 0

    @classmethod
    def fresh(
        cls, models: Sequence[Model], data: DataSpec, device: torch.device | str = "cpu", dtype=torch.float32
    ) -> "StackState":
        _check(models)
        built = []
        for model in models:
            torch.manual_seed(fold(model.seed, "init"))
            built.append(model.method.build(data))
        for name, net in built[0].items():
            _check_stackable(name, net)
        parameters = {name: torch.stack([_flat(nets[name]) for nets in built]).to(device, dtype) for name in built[0]}
        players = models[0].method.players()
        return cls(
            {name: net.to("meta").requires_grad_(False) for name, net in built[0].items()},
            parameters,
            {p.name: (torch.zeros_like(parameters[p.net]), torch.zeros_like(parameters[p.net])) for p in players},
            {p.name: parameters[p.net].clone() for p in players if p.ema is not None},
        )

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "skeletons"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def weights(self, players: Sequence[Player]) -> list[dict[str, Tensors]]:
        """By model and network: what to sample with, averaged where a player keeps an average."""
        flat = self.parameters | {p.net: self.averages[p.name] for p in players if p.ema is not None}
        models = range(len(next(iter(flat.values()))))
        by_net = {name: _named(value, self.skeletons[name]) for name, value in flat.items()}
        return [
            {name: {key: value[m].clone() for key, value in named.items()} for name, named in by_net.items()}
            for m in models
        ]


def train_stack(
    models: Sequence[Model],
    state: StackState,
    batches: Callable[[int, int], Batch],
    *,
    batch: int,
    steps: int,
    hidden: torch.dtype | None = None,
    compiled: bool = False,
    draws_on: torch.device | str = "cpu",
) -> Iterator[Tensors]:
    """Train all models from state.step to `steps`, yielding the terms of each step's losses, each [M].

    batches(seed, step): the batch of a model with that seed. hidden: the precision that hidden layers compute in, if
    not that of the parameters; first and last layers and what Adam moves keep theirs. compiled: losses by
    torch.compile, with other rounding; worth its minutes where starting kernels takes longer than they do (CUDA).
    draws_on: as in `train_steps`.
    """
    rows = rows_of_worker(batch, 0, 1)
    while state.step < steps:
        progress = Progress(state.step, batch, steps)
        by_seed = {seed: batches(seed, state.step) for seed in {model.seed: None for model in models}}
        metrics: Tensors = {}
        of_models = [by_seed[model.seed] for model in models]
        for players in zip(*(model.method.players() for model in models)):
            rngs = [StepRng(model.seed, state.step, players[0].name, rows, draws_on) for model in models]
            metrics |= _step(models, players, state, of_models, rngs, progress, hidden, compiled)
        state.step += 1
        yield metrics


def _step(
    models: Sequence[Model],
    players: tuple[Player, ...],
    state: StackState,
    batches: list[Batch],
    rngs: list[StepRng],
    progress: Progress,
    hidden: torch.dtype | None,
    compiled: bool,
) -> Tensors:
    """One step of every model's player of a name."""
    name, net, adam, ema = players[0].name, players[0].net, players[0].optimiser, players[0].ema
    flat = state.parameters[net]
    draws = [model.method.draw(name, batch, rng) for model, batch, rng in zip(models, batches, rngs)]
    weights = [model.method.weights(name, progress.step) for model in models]
    wanted = {key: None for of_model in weights for key in of_model}
    parameters = {key: _named(value, state.skeletons[key]) for key, value in state.parameters.items()}
    leaves = parameters[net] = {key: value.detach().requires_grad_() for key, value in parameters[net].items()}

    def terms(parameters: dict[str, Tensors], batch: Tensors, draws: Tensors) -> Tensors:
        nets = {key: partial(_call, state.skeletons[key], named) for key, named in parameters.items()}
        return models[0].method.terms(name, cast(Nets, nets), Batch(**batch), draws, wanted)

    lowered = {key: _lowered(named, state.skeletons[key], hidden) for key, named in parameters.items()}
    local = [{key: part for key, part in batch._asdict().items() if part is not None} for batch in batches]
    evaluate = torch.compile(vmap(terms), dynamic=False) if compiled else vmap(terms)
    losses = evaluate(lowered, _stacked(local, flat), _stacked(draws, flat))
    loss = torch.stack([term @ flat.new_tensor([w.get(key, 0.0) for w in weights]) for key, term in losses.items()])
    gradients = torch.autograd.grad(loss.sum(), list(leaves.values()), materialize_grads=True)
    gradient = torch.cat([part.flatten(1) for part in gradients], 1)
    rates = [player.optimiser.lr(progress) for player in players]
    _adam(flat, gradient, state.moments[name], rates, adam, progress.step + 1)
    if ema is not None:
        moved = [1 - player.ema.decay(progress) for player in players if player.ema is not None]
        state.averages[name].lerp_(flat, flat.new_tensor(moved)[:, None])
    return {key: term.detach() for key, term in losses.items()}


def _adam(
    flat: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], rates: list[float], adam: Adam, count: int
) -> None:
    """Step `count` = 1, 2, ... of torch.optim.Adam, with a learning rate per model; all [M, P]."""
    assert not callable(adam.betas)  # see `_check`
    beta1, beta2 = adam.betas
    for row, first, second, slope, rate in zip(flat, *moments, gradient, rates):
        before = torch.tensor(count - 1.0, device=flat.device)
        fused_adam(
            [row], [slope], [first], [second], [], [before],
            fused=True, amsgrad=False, maximize=False, weight_decay=0.0,
            beta1=beta1, beta2=beta2, lr=rate, eps=adam.eps,
        )  # fmt: skip


def _call(skeleton: nn.Module, parameters: Tensors, *given: Tensor | None) -> Any:
    return functional_call(skeleton, parameters, given, strict=True)


def _stacked(by_model: Sequence[Tensors], beside: Tensor) -> Tensors:
    return {key: like(torch.stack([tensors[key] for tensors in by_model]), beside) for key in by_model[0]}


def _flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def _named(flat: Tensor, skeleton: nn.Module) -> Tensors:
    """[M, P] -> by parameter, a view [M, *shape]."""
    shapes = {key: p.shape for key, p in skeleton.named_parameters()}
    parts = flat.split([shape.numel() for shape in shapes.values()], 1)
    return {key: part.unflatten(1, shape) for (key, shape), part in zip(shapes.items(), parts)}


def _lowered(parameters: Tensors, skeleton: nn.Module, hidden: torch.dtype | None) -> Tensors:
    """Hidden layers in another precision, differentiably: those with `may_be_lowered`."""
    if hidden is None:
        return parameters
    layers = tuple(f"{name}." for name, layer in skeleton.named_modules() if getattr(layer, "may_be_lowered", False))
    return {key: value.to(hidden) if key.startswith(layers) else value for key, value in parameters.items()}


def groups(methods: Sequence[Weighed]) -> list[list[int]]:
    """Indices of the methods that may train as one, group by group."""
    by_structure: dict[Hashable, list[int]] = {}
    for number, method in enumerate(methods):
        by_structure.setdefault((type(method), method.structure()), []).append(number)
    return list(by_structure.values())


def _check(models: Sequence[Model]) -> None:
    """ValueError for models that cannot be trained as one."""
    apart = groups([model.method for model in models])
    if len(apart) > 1:
        raise ValueError(f"models {apart[0][0]} and {apart[1][0]} differ in structure: stack them apart")
    for player in models[0].method.players():
        adam = player.optimiser
        is_plain = adam == Adam(adam.lr, adam.betas, adam.eps) and not callable(adam.betas)
        if player.every != 1 or player.trains is not None or not is_plain:
            raise ValueError(f"player {player.name}: a stack supports plain Adam of all parameters at every step only")


def _check_stackable(name: str, net: nn.Module) -> None:
    if any(True for _ in net.buffers()):
        raise ValueError(f"network {name} keeps state in buffers: train such models one by one")
    if any(isinstance(layer, Dropout) and layer.p > 0 for layer in net.modules()):
        raise ValueError(f"network {name} has dropout: train such models one by one, or without it")
