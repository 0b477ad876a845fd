"""Golden data of DDPM, improved DDPM, DDIM and classifier guidance."""

import torch
from torch import Tensor

from methods.classifier_guidance import Use, class_log_weight, entropy, entropy_scale
from methods.core.density.mixtures import Mixture
from methods.core.density.variational import bound_terms, discretized_log_likelihood, gaussian_kl, prior_bits
from methods.core.guidance import Guide, constant, guided
from methods.core.process.chains import Chain, chain_of, cosine_betas, linear_betas, look_up
from methods.core.process.posterior import diffuse
from methods.core.rng import InjectedRng
from methods.core.sampling.ancestral import (
    Predicts,
    Variance,
    ancestral_step,
    chain_denoiser,
    clipped,
    ddim_step,
    read_output,
)
from methods.core.shapes import per_sample
from methods.core.types import At, Denoiser, LogWeight, Prediction
from methods.iddpm import IDDPM, Objective
from tests.methods.reference_cases.fixture import Fixture, case, close

VARIANCES: dict[str, Variance] = {"FIXED_SMALL": "small", "FIXED_LARGE": "large", "LEARNED_RANGE": "learned"}
OBJECTIVES: dict[str, Objective] = {
    "MSE": "mse",
    "RESCALED_MSE": "rescaled-mse",
    "KL": "kl",
    "RESCALED_KL": "rescaled-kl",
}
PREDICTS: dict[str, Predicts] = {"EPSILON": "noise", "START_X": "image"}
BETAS = {"linear": linear_betas, "cosine": cosine_betas}


@case("ddpm_schedules")
def schedules(fixture: Fixture) -> None:
    for name in fixture.cases("_alphas_cumprod"):
        schedule, steps = name.split("_")
        chain = Chain.of(BETAS[schedule](int(steps)))
        close(chain.betas, fixture[f"{name}_betas"], 1e-12)
        close(chain.alpha_bar, fixture[f"{name}_alphas_cumprod"], 1e-12)
        close(chain.variance_small, fixture[f"{name}_posterior_variance"], 1e-12)
        close(chain.log_variance_small, fixture[f"{name}_posterior_log_variance_clipped"], 1e-12)
        close(chain.posterior.coef_x0, fixture[f"{name}_posterior_mean_coef1"], 1e-12)
        close(chain.posterior.coef_xt, fixture[f"{name}_posterior_mean_coef2"], 1e-12)
    for name in fixture.cases("_steps"):
        _, steps, spacing = name.split("_")
        for schedule in (s for s in BETAS if f"{name}_{s}_betas" in fixture):
            chain = Chain.of(BETAS[schedule](int(steps[1:]))).spaced(spacing.replace("-", ","))
            close(chain.betas, fixture[f"{name}_{schedule}_betas"], 1e-12)
            assert torch.equal(chain.steps, fixture.tensor(f"{name}_steps"))


@case("ddpm_sampling")
def sampling(fixture: Fixture) -> None:
    std = float(fixture["gmm_std"])
    mixture = Mixture(fixture.tensor("gmm_means"), std, fixture.tensor("gmm_weights"))
    for name in fixture.cases("_config"):
        config = fixture.config(f"{name}_config")
        whole = chain_of(config["sched"], int(config["T"]))
        chain, variance = whole.spaced(config["resp"]), VARIANCES[config["var"].removeprefix("ModelVarType.")]
        net = _Net(mixture, whole, learns_variance=variance == "learned")
        denoise = _guided(chain_denoiser(net, chain, variance=variance), mixture, fixture.tensor(f"{name}_y"), config)
        if config["clip"] == "True":
            denoise = clipped(denoise)
        x = fixture.tensor(f"{name}_xT").double()
        rng = InjectedRng(*fixture.tensor(f"{name}_noise"))
        xs, x0s = [], []
        for index in reversed(range(len(chain))):
            if config["kind"] == "ddpm":
                x, x0 = ancestral_step(denoise, x, chain, index, rng, variance)
            else:
                x, x0 = ddim_step(denoise, x, chain, index, rng, float(config["eta"]))
                rng.draws = rng.draws[len(rng.draws) - index :]  # one recorded draw per step, used or not
            xs, x0s = [*xs, x], [*x0s, x0]
        assert net.steps == fixture[f"{name}_model_t"].tolist()
        # The recorded run rounded x0 = x / sqrt(alpha-bar) - sigma noise to float32; later steps remove the difference.
        carried = (1e-6 * chain.sigma.max()).clamp(2e-5, 5e-4).item()
        rounded = (2e-7 * chain.sigma.flip(0)).clamp(min=carried).tolist()
        close(torch.stack(xs), fixture[f"{name}_traj"], carried)
        for x0, recorded, atol in zip(x0s, fixture[f"{name}_pred_xstart"], rounded):
            close(x0, recorded, atol)
        close(xs[-1], fixture[f"{name}_traj"][-1], 2e-5)
        close(x0s[-1], fixture[f"{name}_pred_xstart"][-1], 2e-5)


@case("hybrid_loss")
def hybrid_loss(fixture: Fixture) -> None:
    for name in fixture.cases("_config"):
        config = fixture.config(f"{name}_config")
        method = IDDPM(
            steps=int(config["T"]),
            schedule=config["schedule"],
            objective=OBJECTIVES[config["loss"].removeprefix("LossType.")],
            predicts=PREDICTS[config["mean"].removeprefix("ModelMeanType.")],
            variance=VARIANCES[config["var"].removeprefix("ModelVarType.")],
        )
        chain = method.chain.spaced(config["respacing"] or None)
        x0, noise, output, index = (fixture.tensor(f"{name}_{key}") for key in ("x0", "noise", "model_out", "t"))
        x_t = diffuse(x0, look_up(chain.alpha_bar, index), noise)
        prediction = read_output(chain, output, x_t, index, method.predicts, method.variance)
        clipped = prediction._replace(x0=prediction.x0.clamp(-1, 1))
        losses = method.losses(chain, output, x0, noise, index)
        ours = {
            "x_t": x_t,
            "vb_bpd_clip": bound_terms(chain, clipped, x0, x_t, index, method.variance),
            "prior_bpd": prior_bits(chain, x0),
            "loss": losses.total,
            "mse": losses.mse,
            "vb": losses.bound,
        }
        for key, value in ours.items():
            if f"{name}_{key}" in fixture:
                assert value is not None, f"{name}: no {key}"
                close(value, fixture[f"{name}_{key}"], 1e-6, 1e-4)


@case("discretized_gaussian")
def discretized_gaussian(fixture: Fixture) -> None:
    logp = discretized_log_likelihood(*(fixture.tensor(key) for key in ("x", "means", "log_scales")))
    close(logp, fixture["logp"], 0, 1e-4)
    kl = gaussian_kl(*(fixture.tensor(f"kl_{key}") for key in ("mean1", "logvar1", "mean2", "logvar2")))
    close(kl, fixture["kl"], 0, 1e-4)


@case("eds_scale")
def entropy_driven_scale(fixture: Fixture) -> None:
    logits, grad = fixture.tensor("logits"), fixture.tensor("grad")
    close(entropy(logits), fixture["entropy"], 1e-12)
    close(entropy_scale(logits), fixture["eds_scale"], 1e-12)
    # logits that equal the recorded ones at x = 0 and have grad as the gradient of label 0's log-probability there
    first = torch.zeros_like(logits).index_fill_(1, torch.tensor(0), 1.0)
    steepness = grad / per_sample(1 - logits.softmax(1)[:, 0], grad)
    zero = torch.zeros_like(grad)
    log_weight = class_log_weight(
        lambda x, at: logits + first * (x * steepness).flatten(1).sum(1, keepdim=True),
        torch.zeros(len(logits), dtype=torch.int64),
        Use(entropy_driven=True),
    )
    guide = Guide(log_weight, constant(float(fixture["classifier_scale"])))
    prediction = guided(lambda x, at: Prediction(x), guide)(zero, At(torch.ones(len(zero)).double(), 0))
    close(
        prediction.guidance_score if prediction.guidance_score is not None else zero, fixture["guidance"], 1e-12, 1e-9
    )


class _Net:
    """The exact noise predictor of a mixture, with the recorded run's learned variance."""

    def __init__(self, mixture: Mixture, chain: Chain, learns_variance: bool) -> None:
        self.mixture, self.chain, self.learns_variance = mixture, chain, learns_variance
        self.steps: list[int] = []

    def __call__(self, x: Tensor, step: Tensor) -> Tensor:
        self.steps.append(int(step[0]))
        sigma = self.chain.sigma[step]
        noisy = x * (1 + sigma[:, None] ** 2).sqrt()
        noise = (noisy - self.mixture.denoised(noisy, sigma)) / sigma[:, None]
        return torch.cat([noise, torch.tanh(0.7 * x + 0.001 * step[:, None])], 1) if self.learns_variance else noise


def _guided(denoise: Denoiser, mixture: Mixture, labels: Tensor, config: dict[str, str]) -> Denoiser:
    if "cg" not in config:
        return denoise
    return guided(denoise, Guide(_which_component(mixture, labels), constant(float(config["cg"]))))


def _which_component(mixture: Mixture, labels: Tensor) -> LogWeight:
    """An exact classifier: log probability of each point's component."""

    def log_weight(x: Tensor, at: At) -> Tensor:
        variance = mixture.std**2 + at.sigma[:, None] ** 2
        squares = (x[:, None] - mixture.means).square().sum(2)
        return torch.log_softmax(mixture.weights.log() - squares / (2 * variance), 1).gather(1, labels[:, None])[:, 0]

    return log_weight
