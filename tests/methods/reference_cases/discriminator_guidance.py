"""Discriminator guidance: its maps of time, its correction, and whole guided trajectories with exact discriminators."""

import math

import numpy as np
import torch
from torch import Tensor

from methods.core.density.mixtures import Mixture, log_ratio
from methods.core.guidance import guided
from methods.core.process.noise import CosineVP, LinearVP, edm_grid
from methods.core.rng import InjectedRng
from methods.core.sampling.samplers import BoostedChurn, heun
from methods.core.types import At, Denoiser, Prediction
from methods.discriminator_guidance import Clock, LogOdds, Use, density_ratio_guide, network_time
from tests.methods.reference_cases.edm import churn_of, mixture, relative
from tests.methods.reference_cases.fixture import Fixture, case, close

VP = LinearVP()


@case("dg_vp_time")
def times(fixture: Fixture) -> None:
    sigma, t, u = fixture.tensor("sigma"), fixture.tensor("t"), decimals(fixture["u"])
    tau = VP.time(sigma)
    close(tau, fixture["tau"], atol=1e-9)
    close(VP.mean(tau), fixture["mean"], atol=1e-9)
    close(VP.std(tau), fixture["std"], atol=1e-9)
    close(network_time(tau, "cosine"), fixture["tau_cos"], atol=1e-9)
    close(VP.mean(t), fixture["t_mean"], atol=1e-9)
    close(VP.std(t), fixture["t_std"], atol=1e-9)
    close(VP.integral(t), fixture["integral_beta"], atol=1e-9)
    close(VP.log_variance(t), fixture["antiderivative"], atol=1e-9)
    close(network_time(t, "cosine"), fixture["t_cos"], atol=1e-9)
    for name in fixture.cases("_float64"):
        if not name.startswith("quantile_is_tmin"):
            continue
        time_min = float(name.removeprefix("quantile_is_tmin"))
        ends = VP.log_variance(torch.tensor([time_min, 1.0], dtype=torch.float64))
        ours, total = VP.importance_time(u, time_min), ends[1] - ends[0]
        close(ours, fixture[f"{name}_float64"], atol=1e-9)
        close(total, fixture[f"{name.replace('quantile_is', 'Z')}_float64"], atol=1e-9)
        near = u < 0.1
        close(ours[near], fixture[f"{name}_float32"][near], atol=0, rtol=0.08)
        close(ours[~near], fixture[f"{name}_float32"][~near], atol=0, rtol=0.01)
        close(total, fixture[f"{name.replace('quantile_is', 'Z')}_float32"], atol=0, rtol=0.01)
    for name in (key for key in fixture if key.startswith("quantile_uniform_tmin")):
        time_min = float(name.removeprefix("quantile_uniform_tmin"))
        close(time_min + u * (1 - time_min), fixture[name], atol=0, rtol=0.01)


def exact_log_odds(data: Mixture, model: Mixture, resolution: int, seen: list[float]) -> LogOdds:
    """The perfect discriminator in VP coordinates, on cosine time for 64 pixels; records the times it is called with.

    The recorded one took the first sample's time for the whole batch, also where churn had moved others elsewhere.
    """
    clock: Clock = "cosine" if resolution == 64 else "linear"
    schedule = CosineVP() if resolution == 64 else VP

    def log_odds(x_vp: Tensor, tau: Tensor) -> Tensor:
        time = network_time(tau, clock)[:1].expand_as(tau)
        seen.append(time[0].item())
        mean, std = schedule.mean(time), schedule.std(time)
        x = x_vp.float().double() / mean[:, None]
        return log_ratio(data, model)(x, At(std / mean, 0))

    return log_odds


def decimals(stored: np.ndarray) -> Tensor:
    """The float64 numbers that float32 ones were rounded from, had they few decimals."""
    return torch.tensor([float(str(number)) for number in stored], dtype=torch.float64)


@case("dg_correction")
def correction(fixture: Fixture) -> None:
    data, model = mixture(fixture, "p"), mixture(fixture, "q")
    for name in fixture.cases("_guidance"):
        x, sigma = fixture.tensor(f"{name}_x"), float(fixture[f"{name}_sigma"])
        seen: list[float] = []
        guide = density_ratio_guide(exact_log_odds(data, model, resolution_of(name), seen), Use(1.0), together=True)
        at = At(torch.full((len(x),), sigma, dtype=torch.float64), 0)
        prediction = guided(lambda x, at: Prediction(x), guide)(x, at)
        guidance_score = torch.zeros_like(x) if prediction.guidance_score is None else prediction.guidance_score
        # the recorded term is added to x - D
        relative(-(sigma**2) * guidance_score, fixture[f"{name}_guidance"], 1e-5)
        assert prediction.log_ratio is not None
        close(prediction.log_ratio, fixture[f"{name}_log_ratio"], atol=1e-5)
        close(seen[0] if seen else math.nan, fixture[f"{name}_disc_time"], atol=1e-9)


def resolution_of(name: str) -> int:
    return int(name.split("_")[0].removeprefix("r"))


@case("dg_trajectories")
def trajectories(fixture: Fixture) -> None:
    data, model = mixture(fixture, "p"), mixture(fixture, "q")
    for name in fixture.cases("_latents"):
        config = fixture.config(f"{name}_config")
        latents = fixture.tensor(f"{name}_latents")
        network_times: list[float] = []
        use = Use(
            weight=config.pop("dg_weight_1st_order"),
            second_weight=config.pop("dg_weight_2nd_order"),
            time_min=config.pop("time_min"),
            time_max=config.pop("time_max"),
            boost=(boosting := bool(config.pop("boosting"))),
        )
        guide = density_ratio_guide(exact_log_odds(data, model, config.pop("res"), network_times), use, together=True)
        calls: list[Tensor] = []
        ratios: list[Tensor] = []
        denoise = recording(guided(model.denoise, guide), calls, ratios)
        churn = churn_of(config)
        grid = edm_grid(config.pop("num_steps", 18))
        assert not config, f"not understood: {config}"
        law = BoostedChurn(churn) if boosting else churn
        rng = InjectedRng(*fixture.tensor(f"{name}_noise"))
        sample = heun(denoise, latents * grid[0], grid, rng, law)
        close(sample, fixture[f"{name}_x"], atol=1e-5)
        relative(torch.stack(calls), fixture[f"{name}_sigma_calls"], 1e-5)
        first = torch.stack(ratios) if ratios else torch.empty(0, len(latents))
        close(first, fixture[f"{name}_log_ratio_1st"], atol=1e-5)
        close(torch.tensor(network_times), fixture[f"{name}_disc_times"], atol=1e-5)


def recording(denoise: Denoiser, calls: list[Tensor], ratios: list[Tensor]) -> Denoiser:
    """`denoise`, noting the noise levels of every call and the first-order log density ratios."""

    def recorded(x: Tensor, at: At) -> Prediction:
        calls.append(at.sigma)
        prediction = denoise(x, at)
        if at.order == 1 and prediction.log_ratio is not None:
            ratios.append(prediction.log_ratio)
        return prediction

    return recorded
