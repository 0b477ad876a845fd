"""The one training loop: every method, one player or several, one worker or many."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from methods.core.dropout import masks_from
from methods.core.posthoc import power_decay
from methods.core.rng import StepRng, fold, rows_of_worker
from methods.core.types import Adam, Batch, DataSpec, Player, Progress, Remembering, Trainable

AllReduce = Callable[[Tensor], Tensor]  # the mean of a flat tensor over all workers


@dataclass
class TrainState:
    """Everything a killed run needs to resume to the same bits."""

    nets: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]  # by player
    averages: dict[str, dict[str, Tensor]]  # by player with an Ema: parameter name -> average
    posthoc: dict[str, dict[str, dict[str, Tensor]]] = field(default_factory=dict)  # by length, then as `averages`
    step: int = 0

    @classmethod
    def fresh(
        cls,
        method: Trainable,
        data: DataSpec,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        lengths: Sequence[float] = (),
    ) -> "TrainState":
        """lengths: of averages to keep beside a player's own, see `core.posthoc`."""
        torch.manual_seed(fold(seed, "init"))
        nets = {name: net.to(device, dtype).train() for name, net in method.build(data).items()}
        players = method.players()
        averages = {p.name: _copied(trained(p, nets[p.net])) for p in players if p.ema is not None}
        return cls(
            nets,
            {p.name: _optimiser(p, nets[p.net]) for p in players},
            averages,
            {str(length): {name: _copied(average) for name, average in averages.items()} for length in lengths},
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "nets": {name: net.state_dict() for name, net in self.nets.items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "averages": self.averages,
            "posthoc": self.posthoc,
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, net in self.nets.items():
            net.load_state_dict(state["nets"][name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        kept = [(self.averages, state["averages"])]
        kept += [(averages, state["posthoc"][length]) for length, averages in self.posthoc.items()]
        for averages, saved in kept:
            for player, average in averages.items():
                for name, value in average.items():
                    value.copy_(saved[player][name])
        self.step = state["step"]

    def weights(self, players: tuple[Player, ...]) -> dict[str, dict[str, Tensor]]:
        """The weights to sample with, by network; averaged where a player keeps an average."""
        weights = {
            name: {k: v.detach().clone() for k, v in net.state_dict().items()} for name, net in self.nets.items()
        }
        for player in players:
            if player.ema is not None:
                weights[player.net].update({k: v.clone() for k, v in self.averages[player.name].items()})
        return weights


def train_steps(
    method: Trainable,
    state: TrainState,
    batches: Callable[[int], Batch],
    *,
    seed: int,
    batch: int,
    steps: int,
    all_reduce: AllReduce | None = None,
    rank: int = 0,
    world: int = 1,
    autocast: torch.dtype | None = None,
    draws_on: torch.device | str = "cpu",
) -> Iterator[dict[str, Tensor]]:
    """Train from state.step to `steps`, yielding each step's metrics after it is done.

    batches: this worker's rows of a step's batch, those of `rows_of_worker`; batch: the images of all workers. The
    randomness of a row in step k depends on (seed, k, row) alone, so 5 + 5 steps equal 10, and the number of workers
    changes rounding only. draws_on: the device whose generators draw; another kind of device gives other numbers.
    autocast: precision of the networks' products and sums; weights, gradients, optimiser and averages stay as they are.
    """
    rows = rows_of_worker(batch, rank, world)
    while state.step < steps:
        progress = Progress(state.step, batch, steps)
        images = batches(state.step)
        metrics: dict[str, Tensor] = {}
        for player in method.players():
            if progress.step % player.every == 0:
                rng = StepRng(seed, state.step, player.name, rows, draws_on)
                metrics |= _step(method, player, state, images, progress, rng, all_reduce, autocast)
        state.step += 1
        yield metrics


def _step(
    method: Trainable,
    player: Player,
    state: TrainState,
    batch: Batch,
    progress: Progress,
    rng: StepRng,
    all_reduce: AllReduce | None,
    autocast: torch.dtype | None,
) -> dict[str, Tensor]:
    draws = method.draw(player.name, batch, rng)
    net = state.nets[player.net]
    sample = next(net.parameters())
    batch = batch.each(lambda part: like(part, sample))
    draws = {name: like(value, sample) for name, value in draws.items()}
    for other in state.nets.values():
        other.requires_grad_(False)
    for parameter in trained(player, net).values():
        parameter.requires_grad_(True)
    optimiser = state.optimisers[player.name]
    optimiser.zero_grad(set_to_none=True)  # before the loss, whose activations take their place
    with torch.autocast(sample.device.type, autocast, enabled=autocast is not None), masks_from(rng):
        loss, metrics = method.loss(player.name, state.nets, batch, draws, progress.step)
    loss.backward()
    parameters = [p for p in trained(player, net).values() if p.grad is not None]
    _finish_gradients(parameters, player.optimiser, all_reduce)
    for group in optimiser.param_groups:
        group["lr"] = player.optimiser.lr(progress)
        if callable(player.optimiser.betas):
            group["betas"] = player.optimiser.betas(progress)
    optimiser.step()
    if player.ema is not None:
        _average(state.averages[player.name], net, player.ema.decay(progress))
        for length, averages in state.posthoc.items():
            seen = progress.images + progress.batch
            _average(averages[player.name], net, power_decay(float(length), seen, progress.batch))
    notes = metrics.pop("notes", None)
    if notes is not None and isinstance(method, Remembering):
        method.remember(player.name, state.nets, _of_all_workers(notes, progress.batch, rng.rows, all_reduce))
    return metrics


def _of_all_workers(local: Tensor, batch: int, rows: range | None, all_reduce: AllReduce | None) -> Tensor:
    """[batch, ...] in the order of the global batch."""
    if all_reduce is None or rows is None:
        return local
    joined = local.new_zeros(batch, *local.shape[1:])
    joined[rows.start : rows.stop] = local * (batch // len(rows))  # all_reduce gives the mean
    return all_reduce(joined.flatten()).view_as(joined)


def _finish_gradients(parameters: list[nn.Parameter], adam: Adam, all_reduce: AllReduce | None) -> None:
    if all_reduce is not None or adam.replace_nonfinite is not None:  # one operation each, however many parameters
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        flat = flat if all_reduce is None else all_reduce(flat)
        if adam.replace_nonfinite is not None:
            flat.nan_to_num_(0.0, adam.replace_nonfinite, -adam.replace_nonfinite)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters])):
            parameter.grad = part.view_as(parameter)
    if adam.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, adam.clip_norm)


@torch.no_grad()
def _average(average: dict[str, Tensor], net: nn.Module, decay: float) -> None:
    parameters = dict(net.named_parameters())
    trained = [parameters[name] for name in average]
    torch._foreach_lerp_(list(average.values()), trained, 1 - decay)  # type: ignore[attr-defined]


def trained(player: Player, net: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of its network that a player trains, by name; ValueError if there is none."""
    every = dict(net.named_parameters())
    chosen = every if player.trains is None else {name: p for name, p in every.items() if player.trains(name)}
    if not chosen:
        raise ValueError(f"player {player.name}: `trains` chooses none of the {len(every)} parameters of {player.net}")
    return chosen


def _copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}


def _optimiser(player: Player, net: nn.Module) -> torch.optim.Optimizer:
    adam, parameters = player.optimiser, trained(player, net).values()
    options: dict[str, Any] = {"lr": 0.0, "eps": adam.eps, "weight_decay": adam.weight_decay}
    options["betas"] = (0.9, 0.999) if callable(adam.betas) else adam.betas  # a law sets them at every step
    if adam.rectified:
        return torch.optim.RAdam(parameters, **options, decoupled_weight_decay=adam.decoupled)
    return (torch.optim.AdamW if adam.decoupled else torch.optim.Adam)(parameters, **options, fused=True)


def like(value: Tensor, other: Tensor) -> Tensor:
    """On other's device; floats in other's precision."""
    return value.to(other.device, other.dtype if value.is_floating_point() else value.dtype)


def batch_indices(images: int, batch: int, seed: int, step: int) -> Tensor:
    """[batch] indices of a step: consecutive parts of a fresh permutation per epoch, from (seed, step) alone."""
    start, stop = step * batch, (step + 1) * batch
    epochs = range(start // images, (stop - 1) // images + 1)
    return torch.cat([_permutation(images, seed, e)[max(start - e * images, 0) : stop - e * images] for e in epochs])


@lru_cache(maxsize=16)
def _permutation(images: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(images, generator=torch.Generator().manual_seed(fold(seed, "epoch", epoch)))
