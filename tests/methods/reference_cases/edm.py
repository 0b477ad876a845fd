"""EDM: preconditioning, losses, learning rate and averaging, sampling grids, samplers, likelihood pieces, Score SDE."""

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from methods.core.density.mixtures import Mixture
from methods.core.process.denoise import (
    EDMScheme,
    IDDPMScheme,
    Preconditioned,
    Scheme,
    VEScheme,
    VPScheme,
    denoising_errors,
)
from methods.core.process.noise import (
    LinearVP,
    edm_grid,
    iddpm_grid,
    iddpm_levels,
    nearest,
    rounded,
    ve_grid,
    vp_between,
    vp_grid,
)
from methods.core.rng import InjectedRng
from methods.core.sampling.samplers import LINEAR, VE, Churn, follow, heun, vp_scaled, vp_schedule
from methods.core.shapes import per_sample
from methods.core.training.augment import Operation, Transform, augment, flip, identity, labels_of
from methods.core.types import At, Denoiser, Prediction, Progress
from methods.edm import EDM
from tests.methods.reference_cases.fixture import Fixture, case, close


def scheme_of(kind: str, config: dict[str, Any]) -> EDMScheme | VEScheme | IDDPMScheme | VPScheme:
    """Ours for the recorded class and the arguments that differed from its defaults."""
    if kind == "edm":
        return EDMScheme(**config)
    if kind == "ve":
        return VEScheme(**config)
    if kind == "iddpm":
        return IDDPMScheme(**({"steps": config.pop("M")} if "M" in config else {}), **config)
    low, slope = config.pop("beta_min", 0.1), config.pop("beta_d", 19.9)
    scheme = VPScheme(LinearVP(low, low + slope), config.pop("M", 1000), config.pop("epsilon_t", 1e-5))
    assert not config, f"not understood: {config}"
    return scheme


def stub(x: Tensor, time: Tensor) -> Tensor:
    """The inner network of the recorded cases."""
    c = per_sample(time, x)
    return torch.sin(1.3 * x + 0.1 * c) + 0.2 * torch.cos(c)


class Body(nn.Module):
    """Returns a recorded output, or the stub's; records its inputs."""

    def __init__(self, output: Tensor | None = None) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None, hints: Tensor | None) -> Tensor:
        self.x, self.time = x, time
        return stub(x, time) if self.output is None else self.output


def relative(actual: Tensor, expected: np.ndarray | Tensor, tolerance: float) -> None:
    """Within `tolerance` of the array's own scale."""
    close(actual, expected, atol=tolerance * float(np.abs(np.asarray(expected)).max()))


def mixture(fixture: Fixture, prefix: str = "gmm") -> Mixture:
    std = float(fixture[f"{prefix}_std"])
    return Mixture(fixture.tensor(f"{prefix}_means"), std, fixture.tensor(f"{prefix}_weights"))


@case("edm_precond")
def preconditioning(fixture: Fixture) -> None:
    for name in fixture.cases("_round_sigma"):
        kind = name.split("_")[0]
        scheme = scheme_of(kind, fixture.config(f"{name}_config"))
        x, sigma, raw = (fixture.tensor(f"{name}_{part}") for part in ("x", "sigma", "F"))
        relative(stub(fixture.tensor(f"{name}_x_in"), fixture.tensor(f"{name}_c_noise")), raw, 1e-5)
        twice = torch.cat([raw, torch.full_like(raw, torch.nan)], 1)
        net = Preconditioned(body := Body(twice if kind == "iddpm" else raw), tuple(x.shape[1:]), scheme)
        denoised, expected = net(x, sigma), fixture.tensor(f"{name}_D")
        relative(body.x, fixture[f"{name}_x_in"], 1e-5)
        relative(body.time, fixture[f"{name}_c_noise"], 1e-5)
        for row, expected_row in zip(denoised, expected):
            relative(row, expected_row, 1e-5)
        close(scheme.round_sigma(sigma), fixture[f"{name}_round_sigma"], atol=0, rtol=1e-5)
        close(scheme.sigma_max, fixture[f"{name}_sigma_max"], atol=0, rtol=1e-5)
        close(smallest_sigma(scheme), fixture[f"{name}_sigma_min"], atol=0, rtol=1e-5)
    for name in (name for name in fixture if name.endswith("_u")):
        levels = fixture[name]
        for dtype in (torch.float32, torch.float64):
            close(iddpm_levels(len(levels) - 1, dtype), levels, atol=0, rtol=1e-3)


def smallest_sigma(scheme: Scheme) -> float:
    """As recorded: of the VP scheme in float32, where exp(B) - 1 keeps three bits (ours has them all)."""
    if not isinstance(scheme, VPScheme):
        return scheme.sigma_min
    integral = scheme.vp.integral(torch.tensor(scheme.time_min))
    return torch.sqrt(torch.exp(integral) - 1).item()


@case("edm_loss")
def loss(fixture: Fixture) -> None:
    for name in fixture.cases("_rnd_sigma"):
        config = fixture.config(f"{name}_config")
        kind = config.pop("precond").removesuffix("Precond").lower()
        assert config.pop("loss").removesuffix("Loss").lower() == kind
        law = {ours: config.pop(theirs) for theirs, ours in (("P_mean", "mean"), ("P_std", "std")) if theirs in config}
        scheme = scheme_of(kind, config)
        images, draw, noise = (fixture.tensor(f"{name}_{part}") for part in ("images", "rnd_sigma", "noise"))
        net = Preconditioned(body := Body(), tuple(images.shape[1:]), scheme)
        assert not isinstance(scheme, IDDPMScheme)
        sigma = scheme.training_sigma(draw.flatten(), **law)
        errors = denoising_errors(net, images, sigma, noise)
        relative(body.time, fixture[f"{name}_c_noise"], 1e-4)
        for row, expected_row in zip(errors, fixture.tensor(f"{name}_loss")):
            relative(row, expected_row, 1e-4)


@case("edm_ema_lr")
def averaging_and_learning_rate(fixture: Fixture) -> None:
    columns = [str(name) for name in fixture["columns"]]
    rampup_kimg = int(columns[-1].removeprefix("lr_multiplier(rampup ").removesuffix(" kimg)"))
    for row in fixture["table"]:
        batch, halflife, ratio, seen, decay, multiplier = (float(value) for value in row)
        method = EDM(
            lr=1.0,
            ema_halflife_images=int(halflife),
            ema_rampup=None if ratio < 0 else ratio,
            lr_rampup_images=rampup_kimg * 1000,
        )
        progress = Progress(cast("int", seen / batch), int(batch), steps=1)  # no whole step: the table counts images
        close(method.ema_decay(progress), decay, atol=1e-12)
        close(method.learning_rate(progress), multiplier, atol=1e-12)


@case("edm_sigma_schedules")
def grids(fixture: Fixture) -> None:
    low, high = fixture["vp_net_sigma_min_max"]
    close(vp_grid(1)[0], high, atol=0, rtol=1e-9)
    close(VPScheme().sigma_min, low, atol=0, rtol=1e-9)
    released = IDDPMScheme()
    close(released.sigma_min, fixture["iddpm_sigma_min"], atol=0, rtol=1e-6)
    close(released.sigma_max, fixture["iddpm_sigma_max"], atol=0, rtol=1e-5)
    for name in fixture:
        kind, _, steps = name.partition("_")
        if not steps.isdigit():
            continue
        grid = GRIDS[kind](int(steps))
        if kind == "iddpm":
            grid = rounded(grid, released.levels)
        close(grid[:-1], fixture[name], atol=0, rtol=1e-6 if kind == "iddpm" else 1e-9)


GRIDS = {"edm": edm_grid, "vp": vp_grid, "ve": ve_grid, "iddpm": iddpm_grid}


@case("edm_samplers")
def samplers(fixture: Fixture) -> None:
    world = mixture(fixture)
    for name in fixture.cases("_latents"):
        config = fixture.config(f"{name}_config")
        latents, calls = fixture.tensor(f"{name}_latents"), []
        tolerance = 1e-5 if config["round_iddpm"] else 1e-7
        drawn = InjectedRng(latents, *fixture.tensor(f"{name}_noise"))
        sample = sampled(config, recording(world.denoise, calls), drawn, latents.shape[1:])
        close(sample, fixture[f"{name}_x"], atol=tolerance)
        close(torch.tensor(calls), fixture[f"{name}_sigma_calls"], atol=0, rtol=tolerance)


def churn_of(config: dict[str, Any]) -> Churn:
    """The stochastic part of a recorded configuration."""
    return Churn(
        config.pop("S_churn", 0.0),
        config.pop("S_min", 0.0),
        float(config.pop("S_max", math.inf)),
        config.pop("S_noise", 1.0),
    )


def sampled(config: dict[str, Any], denoise: Denoiser, rng: InjectedRng, shape: tuple[int, ...]) -> Tensor:
    """What we get for a recorded configuration: `edm_sampler` is `heun`, `ablation_sampler` is `follow`."""
    levels = IDDPMScheme().levels if config.pop("round_iddpm") else None
    low, high = config.pop("net_sigma_min"), float(config.pop("net_sigma_max"))
    kind, eps = config.pop("discretization", "edm"), config.pop("epsilon_s", 1e-3)
    usual = USUAL.get(kind) or LinearVP().sigma(torch.tensor([eps, 1.0], dtype=torch.float64)).tolist()
    ends = max(config.pop("sigma_min", usual[0]), low), min(config.pop("sigma_max", usual[1]), high)
    shaped = {"edm": {"rho": config.pop("rho", 7)}, "vp": {"eps": eps}}.get(kind, {})
    grid = GRIDS[kind](config.pop("num_steps", 18), *ends, **shaped)
    grid = grid if levels is None else rounded(grid, levels)
    churn, latents = churn_of(config), rng.normal(*shape)

    def round_sigma(sigma: Tensor) -> Tensor:
        return sigma if levels is None else nearest(sigma, levels)

    if config.pop("fn") == "edm_sampler":
        sample = heun(denoise, latents * grid[0], grid, rng, churn, round_sigma)
    else:
        path = {"linear": LINEAR, "ve": VE, "vp": vp_schedule(vp_between(*ends, eps))}[config.pop("schedule", "linear")]
        path = vp_scaled(path) if config.pop("scaling", "none") == "vp" else path
        alpha = config.pop("alpha", 1.0) if config.pop("solver", "heun") == "heun" else None
        sample = follow(denoise, latents, grid, path, alpha, rng, churn, round_sigma)
    assert not config, f"not understood: {config}"
    return sample


USUAL = {"edm": (0.002, 80.0), "ve": (0.02, 100.0), "iddpm": (0.002, 81.0)}


def recording(denoise: Denoiser, calls: list[float]) -> Denoiser:
    """`denoise`, noting the noise level of every call."""

    def recorded(x: Tensor, at: At) -> Prediction:
        calls.append(at.sigma[0].item())
        return denoise(x, at)

    return recorded


@case("edm_augment")
def augmentation(fixture: Fixture) -> None:
    for name in fixture.cases("_labels"):
        config = fixture.config(f"{name}_config")
        images, labels = fixture.tensor(f"{name}_images"), fixture.tensor(f"{name}_labels")
        operations: list[Operation] = [OPERATION_OF[key] for key in config if key != "p" and config[key]]
        transform = transform_of(labels, operations)
        if "aniso" in operations:
            axis, stretch = fixture.tensor(f"{name}_aniso_r"), fixture.tensor(f"{name}_aniso_w")
            transform = transform._replace(aniso=stretch, aniso_axis=axis)
        apply = augment if set(operations) - {"xflip", "yflip"} else flip
        close(apply(images, transform), fixture[f"{name}_out"], atol=1e-4)
        close(labels_of(transform, operations), labels, atol=1e-4)


OPERATION_OF: dict[str, Operation] = {
    "xflip": "xflip",
    "yflip": "yflip",
    "scale": "scale",
    "rotate_frac": "rotate",
    "aniso": "aniso",
    "translate_frac": "translate",
}


def transform_of(labels: Tensor, operations: list[Operation]) -> Transform:
    """The transform that the labels describe: all but the anisotropic scaling."""
    transform, columns = identity(len(labels)), iter(labels.unbind(1))
    for name in OPERATION_OF.values():
        if name not in operations:
            continue
        first = next(columns)
        value = first if name in ("xflip", "yflip", "scale") else next(columns)
        if name == "rotate":
            value = torch.atan2(value, first + 1)
        if name == "translate":
            value = torch.stack([first, value], dim=1)
        if name != "aniso":
            transform = transform._replace(**{name: value})
    return transform
