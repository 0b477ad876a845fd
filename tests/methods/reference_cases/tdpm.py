"""Golden data of TDPM: chains, prior targets, the denoising loss, and sampling along a truncated chain."""

import torch
from torch import Tensor, nn

from methods.core.process.chains import Chain, chain_of
from methods.core.rng import InjectedRng
from methods.core.sampling.ancestral import Step, ancestral_step, chain_denoiser, clipped, ddim_step
from methods.core.types import Batch
from methods.tdpm import TDPM, antithetic
from tests.methods.reference_cases.fixture import Fixture, case, close

SCHEDULES = {"linear": "linear", "quad": "quadratic", "const": "constant", "jsd": "harmonic", "sigmoid": "sigmoid"}


@case("tdpm_process")
def process(fixture: Fixture) -> None:
    steps = len(fixture["betas"])
    chain = Chain.of(chain_of("linear", steps).betas.float())  # in the precision of the recorded tables
    for ours, key in (
        (chain.betas, "betas"),
        (chain.alpha_bar.sqrt(), "sqrt_ab"),
        ((1 - chain.alpha_bar).sqrt(), "sqrt_1mab"),
        (chain.betas.log(), "logvar_fixedlarge"),
        (chain.variance_small.clamp(min=1e-20).log(), "logvar_fixedsmall"),
    ):
        close(ours, fixture[key], 1e-7, 1e-5)
    for key in (key for key in fixture if key.startswith("beta_kind/")):
        betas = chain_of(SCHEDULES[key.removeprefix("beta_kind/")], steps).betas
        close(betas[::37], fixture[key], 1e-7, 1e-5)  # the file keeps every 37th
    for name in fixture.cases("/t_max_index"):
        _truncated(fixture, name, steps)


def _truncated(fixture: Fixture, name: str, steps: int) -> None:
    def get(key: str) -> Tensor:
        return fixture.tensor(f"{name}/{key}")

    last = int(name.removeprefix("trunc"))
    method = TDPM(kept=last + 1, steps=steps, release_indexing=True)
    assert int(get("t_max_index")) == method.kept
    close(method.prior_target(get("x0"), get("eps")), get("x_trunc"), 1e-5)

    index = antithetic(get("t_half"), method.kept, len(get("x0")))
    assert torch.equal(index, get("t_antithetic"))
    errors = method.denoising_errors(_Toy(), get("x0"), index, get("eps"))
    close(errors, get("denoise_loss_per_sample"), 0, 1e-5)
    draws = {"index": index, "noise": get("eps")}
    loss, _ = method.loss("denoiser", {"denoiser": _Toy()}, Batch(get("x0")), draws, 0)
    close(loss, get("denoise_loss_mean"), 0, 1e-5)

    chain = method.chain.kept(get("seq"))
    ddim = _walk(chain, get("x_init"), get("ddpm_noise"), 0.0)
    close(ddim[-1].x, get("ddim_eta0_out"), 1e-5, 1e-4)
    close(torch.stack([step.x0 for step in ddim]), get("ddim_x0preds"), 1e-5, 1e-4)
    for key in fixture.cases("_out"):
        if key.startswith(f"{name}/ddim_eta"):
            eta = float(key.removeprefix(f"{name}/ddim_eta"))
            close(_walk(chain, get("x_init"), get("ddpm_noise"), eta)[-1].x, fixture[f"{key}_out"], 1e-5, 1e-4)
    close(_walk(chain, get("x_init"), get("ddpm_noise"), None)[-1].x, get("ddpm_out"), 1e-5, 1e-4)


def _walk(chain: Chain, x: Tensor, noise: Tensor, eta: float | None) -> list[Step]:
    rng, denoise = InjectedRng(*noise), chain_denoiser(_Toy(), chain)
    x, steps = x.double(), []
    for index in reversed(range(len(chain))):
        if eta is None:
            steps.append(ancestral_step(clipped(denoise), x, chain, index, rng, "large"))
        else:
            steps.append(ddim_step(denoise, x, chain, index, rng, eta))
        x = steps[-1].x
    return steps


class _Toy(nn.Module):
    """The recorded noise predictor."""

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        return torch.tanh(0.3 * x + 0.001 * step.reshape(-1, *[1] * (x.ndim - 1)))
