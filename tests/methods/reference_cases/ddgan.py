"""Golden data of DDGAN: schedules, forward pairs, the posterior, a whole chain."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from methods.core.loop import TrainState, train_steps
from methods.core.process.chains import Chain, few_step_times
from methods.core.rng import InjectedRng, StepRng
from methods.core.types import Batch, DataSpec, Draws, Metrics, Nets, Player
from methods.ddgan import DDGAN, Sampling
from tests.methods.reference_cases.fixture import Fixture, case, close

SCHEDULES: dict[str, Literal["vp", "geometric"]] = {"vp": "vp", "geo": "geometric"}


@case("ddgan_schedules")
def schedules(fixture: Fixture) -> None:
    for name in fixture.cases("/betas"):
        schedule, low, high, steps = name.split("_")
        method = DDGAN(int(steps[1:]), SCHEDULES[schedule], float(low), float(high))
        chain = Chain.of(
            method.chain.betas.float()
        )  # the official tables' precision shows where steps add little noise
        post = chain.posterior
        betas = torch.cat(
            [torch.tensor([1e-8]), chain.betas]
        )  # the official tables begin with a step of almost no noise
        ours = {
            "time": few_step_times(method.steps),
            "betas": betas,
            "a_s": (1 - betas).sqrt(),
            "sigmas": betas.sqrt(),
            "a_s_cum": torch.cat([torch.ones(1), chain.alpha_bar.sqrt()]),
            # one float32 rounding of a_s_cum moves it by more than the tolerance: from the recorded one
            "sigmas_cum": (1 - fixture.tensor(f"{name}/a_s_cum") ** 2).sqrt(),
            "alphas_cumprod": chain.alpha_bar,
            "alphas_cumprod_prev": chain.alpha_bar_before,
            "post_c1": post.coef_x0,
            "post_c2": post.coef_xt,
            "post_var": post.variance,
            "post_logvar": post.variance.clamp(min=1e-20).log(),
        }
        for key, value in ours.items():
            close(value, fixture[f"{name}/{key}"], 1e-7, 1e-5)


@case("ddgan_forward")
def forward(fixture: Fixture) -> None:
    z, noise = fixture.tensor("chain_z"), fixture.tensor("chain_noise")
    beta_min, beta_max = float(fixture["beta_min"]), float(fixture["beta_max"])
    method = DDGAN(int(fixture["T"]), "vp", beta_min, beta_max, latent=z.shape[-1])
    x0, index = fixture.tensor("x0"), fixture.tensor("t")
    x_s, x_t = method.pair(x0, index, fixture.tensor("noise_t"), fixture.tensor("noise_tp1"))
    close(x_s, fixture["x_t"], 1e-5)
    close(x_t, fixture["x_tp1"], 1e-5)
    back = method.posterior_at(index).sample(fixture.tensor("x0_pred"), x_t, fixture.tensor("post_noise"))
    close(back, fixture["post_sample"], 1e-5)

    toy = _Toy(tuple(x0.shape[1:]))
    steps = [draw for pair in zip(z, noise) for draw in pair]
    out = method.sample({"generator": toy}, Sampling(), None, InjectedRng(fixture.tensor("chain_x_init"), *steps))
    close(torch.stack(toy.outputs), fixture["chain_x0"], 1e-5)
    close(out, fixture["chain_out"], 1e-5)


@case("ddgan_ema")
def average_and_learning_rate(fixture: Fixture) -> None:
    """The generator's optimiser, learning rate and average, through the loop, with the recorded gradients."""
    recorded, epoch = _Recorded(fixture), int(fixture["steps_per_epoch"])
    state = TrainState.fresh(recorded, DataSpec((1,), 0, 1.0), seed=0)
    steps = (int(fixture["T_max"]) + 1) * epoch
    loop = train_steps(recorded, state, lambda step: Batch(torch.zeros(1, 1)), seed=0, batch=16, steps=steps)
    for k, rate in enumerate(fixture["lr"]):
        next(loop)
        close(state.optimisers["generator"].param_groups[0]["lr"], rate, 0, 1e-9)
        for name, parameter in state.nets["generator"].named_parameters():
            close(parameter, fixture[f"params_{name}"][k + 1], 1e-5, 1e-5)
        for name in (name for name in recorded.start if f"ema_{name}" in fixture):
            close(state.averages["generator"][name], fixture[f"ema_{name}"][k], 1e-5, 1e-5)


class _Recorded:
    """DDGAN's generator as a player on two bare parameters, whose gradients are given."""

    def __init__(self, fixture: Fixture) -> None:
        method = DDGAN(
            generator_lr=float(fixture["lr0"]),
            lr_min=float(fixture["eta_min"]),
            epochs=int(fixture["T_max"]),
            ema=float(fixture["decay"]),
        )
        (player,) = (player for player in method.players() if player.name == "generator")
        recorded = float(fixture["beta1"]), float(fixture["beta2"])
        self.player = replace(player, optimiser=replace(player.optimiser, betas=recorded))
        self.gradients = fixture.tensor("grads")
        names = [key.removeprefix("params_") for key in fixture if key.startswith("params_")]
        self.start = {name: fixture.tensor(f"params_{name}")[0] for name in names}

    def players(self) -> tuple[Player, ...]:
        return (self.player,)

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        return {"generator": nn.ParameterDict(self.start)}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        return {}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        parameters = nets["generator"].parameters()
        return torch.stack([(p * g).sum() for p, g in zip(parameters, self.gradients[step])]).sum(), {}


class _Toy(nn.Module):
    """The recorded chain's generator."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.outputs = shape, []

    def forward(self, x: Tensor, index: Tensor, z: Tensor) -> Tensor:
        shift = 0.1 * (index + 1) * z.mean(1)
        self.outputs.append(torch.tanh(0.5 * x + shift.reshape(-1, *[1] * (x.ndim - 1))))
        return self.outputs[-1]
