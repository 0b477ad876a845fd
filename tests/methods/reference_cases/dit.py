"""Golden data of the diffusion transformer: the official network, its losses, guidance, and a guided chain."""

import json

import torch
from torch import Tensor

from methods.core.guidance import Guide, classifier_free, constant, guided
from methods.core.process.chains import look_up
from methods.core.rng import InjectedRng
from methods.core.sampling.ancestral import ancestral_step, chain_denoiser, learned_log_variance
from methods.core.types import At, Denoiser, Prediction
from methods.iddpm import IDDPM
from methods.nets.dit import DiT
from methods.nets.embeddings import cos_sin_embedding
from tests.methods.reference_cases.fixture import Fixture, case, close
from tests.methods.reference_cases.nets import fresh_statistics_agree

TOLERANCE = 1e-5
HYBRID = IDDPM(steps=1000, schedule="linear", objective="mse", net="dit")


def network(fixture: Fixture, check_fresh: bool = True) -> DiT:
    config = fixture.config()
    torch.manual_seed(0)
    net = DiT(
        (config["in_channels"], config["input_size"], config["input_size"]),
        config["in_channels"] * (2 if config["learn_sigma"] else 1),
        width=config["hidden_size"],
        depth=config["depth"],
        heads=config["num_heads"],
        patch=config["patch_size"],
        mlp_ratio=config["mlp_ratio"],
        classes=config["num_classes"] + (config["class_dropout_prob"] > 0),
    )
    if check_fresh:
        recorded = json.loads(str(fixture["init_stats"]))
        del recorded["pos_embed"]  # no random numbers; the weights below contain it
        fresh_statistics_agree(net, recorded)
    weights, positions = fixture.weights(fixture.stem.removesuffix("_io")), net.pos_embed.clone()
    net.load_state_dict(weights)
    close(positions, net.pos_embed, 1e-6)
    return net.eval().requires_grad_(False)


@case("latent_dit")
def dit(fixture: Fixture) -> None:
    net, seen = network(fixture), dict[str, Tensor]()
    parts = {
        "patches": net.x_embedder,
        "t_emb": net.t_embedder,
        "block0_attn": net.get_submodule("blocks.0.attn"),
        "block0": net.blocks[0],
        "last_block": net.blocks[-1],
        "final_tokens": net.final_layer,
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda _net, _inputs, output, name=name: seen.update({name: output.detach()}))
    x, t, y = fixture.tensor("x").requires_grad_(), fixture.tensor("t"), fixture.tensor("y")
    out = net(x, t, y)
    close(out, fixture["out"], TOLERANCE)
    for name in parts:
        close(seen[name], fixture[name], TOLERANCE)
    close(cos_sin_embedding(t, 256), fixture["t_sinusoid"], TOLERANCE)
    functional = fixture.tensor("functional")
    close(torch.autograd.grad((out * functional).sum(), x)[0], fixture["grad_x"], TOLERANCE)
    if "out_null" in fixture:
        hidden_classes(fixture, net, x.detach(), t, y)
    if "loss" in fixture:
        hybrid_loss(fixture, net, y)


def hidden_classes(fixture: Fixture, net: DiT, x: Tensor, t: Tensor, y: Tensor) -> None:
    """Images without a class, and classifier-free guidance of the first three channels of the noise."""
    classes = fixture.config()["num_classes"]
    close(net(x, t, None), fixture["out_null"], TOLERANCE)
    hot = torch.nn.functional.one_hot(y, classes).float()
    close(net(x, t, hot), fixture["out"], TOLERANCE)
    close(net(x, t, torch.zeros_like(hot)), fixture["out_null"], TOLERANCE)
    close(net(x, t, y.where(fixture.tensor("drop") == 0, classes)), fixture["out_drop"], TOLERANCE)

    def output(labels: Tensor | None) -> Denoiser:
        """The guided quantity is linear in the image that it encodes, so that the noise can take its place."""
        return lambda x, at: Prediction(net(x, t, labels))

    for scale in fixture.cases(""):
        if scale.startswith("cfg"):
            law = constant(float(scale.removeprefix("cfg")) - 1)
            guided_output = classifier_free(output(y), output(None), law, channels=3)(x, At(torch.ones(len(x)), 0))
            close(guided_output.x0, fixture[scale], TOLERANCE)


def hybrid_loss(fixture: Fixture, net: DiT, y: Tensor) -> None:
    x0, noise, index = (fixture.tensor(f"loss_{name}") for name in ("x0", "noise", "t"))
    alpha_bar = look_up(HYBRID.chain.alpha_bar, index).float()[:, None, None, None]
    output = net(alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise, index.float(), y)
    losses = HYBRID.losses(HYBRID.chain, output, x0, noise, index)
    assert losses.mse is not None
    assert losses.bound is not None
    close(losses.mse, fixture["loss_mse"], TOLERANCE)
    close(losses.bound, fixture["loss_vb"], 0, TOLERANCE)
    close(losses.total, fixture["loss"], TOLERANCE)


@case("latent_dit_dg")
def guided_chain(fixture: Fixture) -> None:
    """DiT-G++'s steps: guidance without classes by time, and a discriminator's, along 10 of 1000 states."""
    config = fixture.config()
    stem = fixture.stem.replace("_dg", "")
    net = network(Fixture(fixture.folder / f"{stem}_io.npz"), check_fresh=False)
    y, weights = fixture.tensor("y"), fixture.tensor("w")
    chain = HYBRID.chain.spaced(config["spacing"])
    assert chain.steps.flip(0).tolist() == fixture["model_t"].tolist()
    alpha_bar = HYBRID.chain.alpha_bar

    def denoiser(labels: Tensor | None) -> Denoiser:
        def output(x: Tensor, step: Tensor) -> Tensor:
            noise, v = net(x.float(), step.float(), labels).double().chunk(2, dim=1)
            spread = (1 - look_up(alpha_bar, step)).sqrt()[:, None, None, None]
            return torch.cat([spread * x + 0.3 * noise, v.clamp(-1, 1)], dim=1)

        return chain_denoiser(output, chain, variance="learned")

    def cfg(at: At, log_weight: Tensor) -> Tensor:
        late = look_up(chain.steps, chain.index_of(at.sigma)) > config["branch_time"]
        return torch.where(late, config["LT_cfg"], config["ST_cfg"]) - 1.0

    def log_ratio(x: Tensor, at: At) -> Tensor:
        step = look_up(chain.steps, chain.index_of(at.sigma))
        x_vp = x / (1 + at.sigma**2).sqrt()[:, None, None, None]
        logit = (1 + step / 999 / 2) * (weights[y].double() * x_vp.tanh()).flatten(1).sum(1)
        d = logit.float().sigmoid().clamp(1e-5, 1 - 1e-5)  # in the recorded run's precision
        return d.log() - (1 - d).log()

    sigma_min = float((1 / alpha_bar[config["time_min"] + 1] - 1).sqrt()) * (1 - 1e-6)
    guide = Guide(log_ratio, constant(config["dg_scale"]), sigma_min, is_density_ratio=True)
    plain = classifier_free(denoiser(y), denoiser(None), cfg, channels=3)
    denoise = guided(plain, guide)
    x, rng = fixture.tensor("xT").double(), InjectedRng(*fixture.tensor("noise"))
    tolerance = 1e-4
    for row, index in enumerate(reversed(range(len(chain)))):
        sigma = float(chain.sigma[index])
        at = At(torch.full((len(x),), sigma, dtype=torch.float64), row)
        x_ve = x * (1 + sigma**2) ** 0.5
        prediction = denoise(x_ve, at)
        share, score = prediction.variance_share, prediction.guidance_score
        assert share is not None
        variance = learned_log_variance(chain, share, torch.full((len(x),), index))
        coef_x0, coef_xt, _ = (float(table[index]) for table in chain.posterior)
        close(coef_x0 * prediction.x0 + coef_xt * x, fixture["mean"][row], tolerance)
        close(variance, fixture["log_variance"][row], tolerance)
        score = torch.zeros_like(x) if score is None else score * (1 + sigma**2) ** 0.5
        close(config["dg_scale"] * score, fixture["grad"][row], tolerance)
        close(log_ratio(x_ve, at) * guide.inside(at), fixture["log_ratio"][row], tolerance)
        x, x0 = ancestral_step(denoise, x, chain, index, rng, "learned")
        close(x0, fixture["pred_xstart"][row], tolerance)
        close(x, fixture["traj"][row], tolerance)
