"""Trainings that need another run: they start from its weights, have it as a frozen teacher, or both."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from methods.core.loop import TrainState
from methods.core.types import Denoiser, Diffusion, Nets, Parent, Starting, Trainable

TEACHER = "teacher"  # its name among a method's networks


class Teacher(nn.Module):
    """Another run, frozen, with the weights it samples with; a method finds it as `nets["teacher"]`."""

    def __init__(self, parent: Parent) -> None:
        super().__init__()
        self.method, self.nets = parent.method, nn.ModuleDict(parent.nets)
        self.eval().requires_grad_(False)

    def denoiser(self, labels: Tensor | None) -> Denoiser:
        """Its denoiser with these labels [B], in variance-exploding coordinates; ValueError if it has none."""
        if not isinstance(self.method, Diffusion):
            raise ValueError(
                f"the teacher is a {type(self.method).__name__}, which has no denoiser: name a diffusion model"
            )
        return self.method.denoiser(self.nets["denoiser"], labels)


def check_roles(method: Trainable, name: str, roles: Iterable[str]) -> None:
    """ValueError for a role of another run that this method has no use for, and for one that it needs and lacks.

    name: the method's, for the message; roles: those of the run's `from`, none without it.
    """
    given, known = set(roles), getattr(method, "roles", {"start": False})
    for role in sorted(given - known.keys()):
        uses = ", ".join(sorted(known)) or "none at all"
        raise ValueError(f"from.as: {name} has no use for another run as {role}: it has for {uses}")
    for role in sorted(role for role, needed in known.items() if needed and role not in given):
        wanted = f"from: {{run: NAME, as: {role}}}"
        raise ValueError(f"{name} needs another run as {role}: move its entry to `derived` and add `{wanted}` to it")


def begin(method: Trainable, state: TrainState, parent: Parent, roles: Iterable[str]) -> None:
    """Give a fresh training the other run. ValueError if its networks differ from those that start from them."""
    if "start" in roles:
        if isinstance(method, Starting):
            method.start(state.nets, parent)
        else:
            start_equal(state.nets, parent)
        for player in method.players():
            if player.ema is not None:
                average, now = state.averages[player.name], state.nets[player.net].state_dict()
                for name, value in average.items():
                    value.copy_(now[name])
    if "teacher" in roles:
        some = next(next(iter(state.nets.values())).parameters())
        state.nets[TEACHER] = Teacher(parent).to(some.device, some.dtype)


def start_equal(nets: Nets, parent: Parent) -> None:
    """Every network starts from the other run's of the same name; all others stay fresh."""
    shared = [name for name in nets if name in parent.nets]
    if not shared:
        have, has = ", ".join(nets), ", ".join(parent.nets)
        raise ValueError(f"from: its networks are {has}, but {have} was wanted: name a run of the same method")
    for name in shared:
        start_from(nets[name], parent.nets[name].state_dict(), name)


def start_from(net: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Copy the weights into a network; ValueError if they do not fit. name: of the network, for the message."""
    own = net.state_dict()
    for key in sorted(own.keys() | weights.keys()):
        came, wanted = (list(of[key].shape) if key in of else "nothing" for of in (weights, own))
        if came != wanted:
            raise ValueError(
                f"from: {name}: {key} is {came} in the run it starts from, {wanted} was wanted: give both runs the "
                "same `model` fields of the network"
            )
    net.load_state_dict(weights)
