"""Score SDE: marginals of its processes, exact densities and importance times."""

import math

import torch

from methods.core.density.likelihood import bits_per_dimension, flow_likelihood
from methods.core.process.noise import GeometricVE, LinearVP, SubVP, log_uniform_sigma
from tests.methods.reference_cases.edm import mixture, relative
from tests.methods.reference_cases.fixture import Fixture, case, close


@case("edm_nll")
def likelihood_pieces(fixture: Fixture) -> None:
    world, x = mixture(fixture), fixture.tensor("x")
    for name in (key.removeprefix("logp_sigma") for key in fixture if key.startswith("logp_sigma")):
        sigma = torch.full((len(x),), float(name), dtype=torch.float64)
        close(world.log_density(x, sigma), fixture[f"logp_sigma{name}"], atol=1e-9)
        close(world.score(x, sigma), fixture[f"score_sigma{name}"], atol=1e-9)
        close(world.denoised(x, sigma), fixture[f"denoised_sigma{name}"], atol=1e-9)
    u = fixture.tensor("u")
    for name in (key for key in fixture if key.startswith("edm_is_time_")):
        ends = name.removeprefix("edm_is_time_")
        low, high = map(float, ends.removeprefix("tmin").split("_T"))
        close(log_uniform_sigma(u, low, high), fixture[name], atol=1e-9)
        close(2 * math.log(high / low), fixture[f"Z_{ends}"], atol=1e-9)


@case("score_sde_marginals")
def marginals(fixture: Fixture) -> None:
    t, betas, sigmas = fixture.tensor("t", torch.float64), fixture["vp_discrete_betas"], fixture["ve_discrete_sigmas"]
    vp = LinearVP(float(betas[0]) * len(betas), float(betas[-1]) * len(betas))
    sub, ve = SubVP(vp), GeometricVE(float(sigmas[0]), float(sigmas[-1]))
    ours = {
        "ve_std": ve.sigma(t),
        "ve_g": ve.diffusion(t),
        "vp_mean": vp.mean(t),
        "vp_std": vp.std(t),
        "vp_drift_coef": -vp.beta(t) / 2,
        "vp_g": vp.beta(t).sqrt(),
        "subvp_std": sub.std(t),
        "subvp_g": sub.diffusion(t),
        "vp_discrete_betas": vp.discrete_betas(len(betas)),
        "ve_discrete_sigmas": ve.sigma(torch.linspace(0, 1, len(sigmas), dtype=torch.float64)),
    }
    for name, value in ours.items():
        relative(value, fixture[name], 1e-5)


@case("score_sde_vp_likelihood")
def likelihood(fixture: Fixture) -> None:
    world, x = mixture(fixture), fixture.tensor("x", torch.float64)
    bits = {}
    for name, second in (("plus_plus", 1.0), ("plus_minus", -1.0)):
        probe = torch.tensor([1.0, second], dtype=torch.float64).expand_as(x)
        log_density, latent, calls = flow_likelihood(world.denoise, x, probe)
        bits[name] = bits_per_dimension(log_density, x.shape[1])
        close(bits[name], fixture[f"bpd_eps_{name}"], atol=5e-3)
        close(latent, fixture["z"], atol=5e-3)
    assert abs(calls - int(fixture["nfe"])) <= 0.1 * int(fixture["nfe"])  # step control is in another precision
    mean = (bits["plus_plus"] + bits["plus_minus"]) / 2  # two dimensions: the exact trace
    close(mean, fixture["bpd_mean"], atol=5e-3)
    close(mean, fixture["exact_bpd"], atol=5e-3)
    vp, time = LinearVP(), torch.full((len(x),), 1e-5, dtype=torch.float64)
    scale = vp.mean(time)
    exact = world.log_density(x / scale[:, None], vp.sigma(time)) - x.shape[1] * scale.log()
    close(exact, fixture["exact_log_p_at_teps"], atol=1e-6)
