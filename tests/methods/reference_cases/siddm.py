"""Golden data of SIDDM: kernels, and losses and sampler of the simulation on 25 Gaussians."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from methods.core.process.continuous import alpha_bar
from methods.core.process.posterior import diffuse, implicit_step
from methods.core.rng import InjectedRng
from methods.core.shapes import per_sample
from methods.core.types import Batch, DataSpec
from methods.nets.embeddings import sinusoids
from methods.siddm import SIDDM, Sampling
from tests.methods.reference_cases.fixture import Fixture, case, close

SCALARS = ("t_next", "t", "alpha_bar_t", "alpha_bar_next", "beta_next", "coef_x0", "coef_xnext", "post_var")
NOISES = ("eps_t", "eps_next", "eps_post", "eps_renoise")
KERNEL = (*SCALARS, *NOISES, "x0", "x_t", "x_next", "x0_pred", "x_post", "x_next_fake", "ddim", "mu_part")
DRAWS = {  # ours -> recorded
    "z": "z",
    "noise_s": "eps_t",
    "noise_u": "eps_next",
    "noise_posterior": "eps_post",
    "noise_renoise": "eps_renoise",
}


@case("siddm_kernels")
def kernels(fixture: Fixture) -> None:
    close(alpha_bar(fixture.tensor("t_grid")), fixture["alpha_bar_grid"], 1e-7, 1e-5)
    for name in fixture.cases("/t_next"):
        _kernel(SIDDM(int(name[1:])), {key: fixture.tensor(f"{name}/{key}") for key in KERNEL})
    for width in (int(key.removeprefix("temb")) for key in fixture if key.startswith("temb") and key != "temb_in"):
        close(sinusoids(fixture.tensor("temb_in"), width), fixture[f"temb{width}"], 1e-5)


def _kernel(method: SIDDM, recorded: dict[str, Tensor]) -> None:
    times = method.times(recorded["t_next"])
    post = method.posterior(times)
    for ours, key in (
        (times.u, "t_next"),
        (times.s, "t"),
        (times.alpha_bar_s, "alpha_bar_t"),
        (times.alpha_bar_u, "alpha_bar_next"),
        (times.beta, "beta_next"),
        (post.coef_x0, "coef_x0"),
        (post.coef_xt, "coef_xnext"),
        (post.variance, "post_var"),
    ):
        close(ours, recorded[key], 1e-7, 1e-5)
    forward_again = times.beta * times.alpha_bar_u.sqrt() / (1 - times.alpha_bar_u)  # sqrt(1 - beta) coef_x0
    x_s = diffuse(recorded["x0"], times.alpha_bar_s, recorded["eps_t"])
    x_u = diffuse(recorded["x_t"], 1 - times.beta, recorded["eps_next"])
    fake = post.sample(recorded["x0_pred"], recorded["x_next"], recorded["eps_post"])
    for ours, key in (
        (x_s, "x_t"),
        (x_u, "x_next"),
        (fake, "x_post"),
        (diffuse(recorded["x_post"], 1 - times.beta, recorded["eps_renoise"]), "x_next_fake"),
        (implicit_step(recorded["x0_pred"], recorded["x_next"], times.alpha_bar_s, times.alpha_bar_u), "ddim"),
        (per_sample(forward_again, recorded["x0"]) * recorded["x0"], "mu_part"),
    ):
        close(ours, recorded[key], 1e-5)


@case("siddm_mog_losses")
def losses(fixture: Fixture) -> None:
    tag = fixture.stem.removeprefix("siddm_mog_losses_")
    released = SIDDM(
        steps=int(fixture["T"]),
        latent=fixture["z"].shape[-1],
        sees="image",
        sees_pair=bool(fixture["mask_xnext"]),
        afd_weight=float(fixture["ac_w"]),
        afd="renoise",
        afd_clip=None,
        c_target=None,
        clean_weight=None,
    )
    paper = replace(released, sees="marginal", afd="paper")
    nets, x0 = _nets(released, fixture, tag, fixture["x0"].shape[1:]), fixture.tensor("x0")
    draws = {ours: fixture.tensor(theirs) for ours, theirs in DRAWS.items()}
    times = paper.times(fixture.tensor("u"))
    draws |= {"s": times.s, "u": times.u}

    tensors = paper.step_tensors(nets["generator"], x0, draws)
    close(tensors.times.s, fixture["t"], 1e-7, 1e-5)
    close(tensors.times.u, fixture["t_next"], 1e-7, 1e-5)
    for ours, theirs in (
        ("x_s", "x_t"),
        ("x_u", "x_next"),
        ("x0", "x0_pred"),
        ("fake", "x_post"),
        ("renoised", "x_next_fake"),
    ):
        close(getattr(tensors, ours), fixture[theirs], 1e-5, 1e-4)
    close(paper.cross_entropy(tensors) * x0[0].numel(), fixture["paper_afd_per_sample"], 1e-5, 1e-4)
    close((paper.cross_entropy(tensors) * x0[0].numel()).mean(), fixture["paper_afd_mean"], 0, 1e-5)
    close((tensors.fake - tensors.x_s).square().mean(), fixture["afd_unweighted_mean"], 0, 1e-5)
    for method, tag, real, fake in ((released, "code", x0, tensors.x0), (paper, "paper", tensors.x_s, tensors.fake)):
        for x, key in ((real, "real"), (fake, "fake")):
            close(
                method.discriminate(nets["discriminator"], tensors, x).logits.sigmoid(),
                fixture[f"{tag}_d_{key}"],
                1e-5,
                1e-4,
            )
        loss, _ = method.loss("discriminator", nets, Batch(x0), draws, 0)
        close(loss, fixture[f"{tag}_D_loss"], 0, 1e-5)
        _, metrics = method.loss("generator", nets, Batch(x0), draws, 0)
        close(metrics["generator_adversarial"], fixture[f"{tag}_G_adv"], 0, 1e-5)

    loss, metrics = released.loss("generator", nets, Batch(x0), draws, 0)
    close(metrics["afd"], fixture["code_afd"], 0, 1e-5)
    loss.backward()
    norms = {name: p.grad.norm() for name, p in nets["generator"].named_parameters() if p.grad is not None}
    close(torch.stack([norms[name] for name in fixture["code_G_grad_names"]]), fixture["code_G_grad_norms"], 0, 1e-3)


def _nets(method: SIDDM, fixture: Fixture, tag: str, shape: tuple[int, ...]) -> dict[str, nn.Module]:
    nets = method.build(DataSpec(shape=shape, classes=0, std=1.0))
    for name, letter in (("generator", "G"), ("discriminator", "D")):
        nets[name].load_state_dict(fixture.weights(f"siddm_mog_{letter}_{tag}"))
    return nets


@case("siddm_mog_sampler")
def sampler(fixture: Fixture) -> None:
    tag = fixture.stem.removeprefix("siddm_mog_sampler_").rsplit("_k", 1)[0]
    method = SIDDM(latent=fixture["z"].shape[-1], c_target=None, clean_weight=None)
    noises = [*fixture.tensor("noise"), None]
    steps = [draw for pair in zip(fixture.tensor("z"), noises) for draw in pair if draw is not None]
    rng = InjectedRng(fixture.tensor("x_init"), *steps)
    out = method.sample(
        _nets(method, fixture, tag, fixture["x_init"].shape[1:]), Sampling(int(fixture["k"])), None, rng
    )
    close(out, fixture["out"], 1e-5, 1e-4)
