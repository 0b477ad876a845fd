"""Networks of DDGAN and TDPM against the outputs and gradients of the official ones."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods.core.training.adversarial import loss_on_fake, loss_on_real, squared_gradient
from methods.ddgan import DDGAN
from methods.nets.adm.ddpm_unet import DDPMUNet
from methods.nets.embeddings import sinusoids
from methods.nets.fir import FirConv, fir
from methods.nets.ncsnpp.blocks import AdaptiveGroupNorm, AttentionBlock, NormAfter, PixelNorm
from methods.nets.ncsnpp.discriminator import DDGANDiscriminator
from methods.nets.ncsnpp.generator import NCSNppGenerator, Pyramid
from methods.nets.resample import Resampling
from methods.nets.stylegan2_discriminator import StyleGAN2Discriminator
from tests.methods.reference_cases.fixture import Fixture, case, close

OUTPUT = {"atol": 1e-5, "rtol": 1e-4}
FORMULA = {"atol": 1e-5}
LOSS = {"atol": 0.0, "rtol": 1e-5}

# What the published text of the network leaves no choice in, as the official constructor calls it.
SETTLED = {
    "centered": True,
    "resamp_with_conv": True,
    "conditional": True,
    "fir": True,
    "skip_rescale": True,
    "embedding_type": "positional",
    "progressive_combine": "sum",
}
PYRAMIDS: dict[str, Pyramid] = {"none": "none", "input_skip": "skip", "output_skip": "skip", "residual": "residual"}
NORMS: dict[str, NormAfter] = {"biggan": "adaptive", "biggan_oneadagn": "plain"}


def generator_of(config: dict[str, Any]) -> NCSNppGenerator:
    """The official arguments as ours."""
    for name, value in SETTLED.items():
        assert config[name] == value, name
    size = config["image_size"]
    return NCSNppGenerator(
        (config["num_channels"], size, size),
        latent=config["nz"],
        model_channels=config["num_channels_dae"],
        channel_mult=tuple(config["ch_mult"]),
        num_res_blocks=config["num_res_blocks"],
        attn_resolutions=tuple(config["attn_resolutions"]),
        dropout=config["dropout"],
        style_channels=config["z_emb_dim"],
        mapping_layers=config["n_mlp"],
        norm_after=NORMS[config["resblock_type"]],
        image_in=PYRAMIDS[config["progressive_input"]],
        image_out=PYRAMIDS[config["progressive"]],
        taps=tuple(config["fir_kernel"]),
        tanh=not config["not_use_tanh"],
    ).eval()


def norms_agree(parameters: dict[str, nn.Parameter], names: np.ndarray, norms: np.ndarray) -> None:
    """Gradient norms; those that would be zero but for rounding are zero but for rounding."""
    recorded = dict(zip(names.tolist(), norms.tolist()))
    ours = {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in parameters.items()}
    assert ours.keys() == recorded.keys()
    rounding = 1e-7 * max(recorded.values())
    for name, norm in recorded.items():
        close(ours[name], norm, atol=rounding, rtol=1e-3)


@case("ddgan_netG")
def generator(fixture: Fixture) -> None:
    net = generator_of(fixture.config())
    net.load_state_dict(fixture.weights(fixture.stem))
    assert sum(p.numel() for p in net.parameters()) == int(fixture["n_params"])
    x, z = fixture.tensor("x").requires_grad_(), fixture.tensor("z").requires_grad_()
    out = net(x, fixture.tensor("t"), z)
    close(out, fixture["out"], **OUTPUT)
    close(net.z_transform(z), fixture["zemb"], **OUTPUT)
    out.square().sum().backward()
    assert x.grad is not None
    assert z.grad is not None
    close(x.grad, fixture["grad_x"], **OUTPUT)
    close(z.grad, fixture["grad_z"], **OUTPUT)
    norms_agree(dict(net.named_parameters()), fixture["grad_norm_names"], fixture["grad_norms"])


@case("ddgan_netD_small")
def small_discriminator(fixture: Fixture) -> None:
    weights, index = fixture.weights(fixture.stem), fixture.tensor("t")
    partner = Fixture(fixture.folder / f"{fixture.stem.replace('netD_small', 'netG')}.npz")
    config = partner.config()
    net = DDGANDiscriminator(
        config["num_channels"], size="small", model_channels=config["ngf"], time_channels=config["t_emb_dim"]
    )
    net.load_state_dict(weights)
    close(sinusoids(index.float(), config["t_emb_dim"]), fixture["t_emb"], **FORMULA)

    x_s, x_t = fixture.tensor("x_t").requires_grad_(), fixture.tensor("x_tp1")
    untouched = index == 0  # x_0 is the image itself
    close(x_s[untouched], fixture["x0"][untouched.numpy()], **FORMULA)
    on_real = net(x_s, index, x_t).logits
    close(on_real, fixture["D_real"], **OUTPUT)
    close(loss_on_real(on_real), fixture["loss_D_real"], **LOSS)
    steepness = squared_gradient(on_real, x_s)
    close(steepness, fixture["r1_mean_sq_grad"], atol=0, rtol=1e-4)
    r1 = float(fixture["r1_gamma"]) / 2 * steepness
    close(r1, fixture["r1_term"], atol=0, rtol=1e-4)
    r1.backward()
    norms_agree(dict(net.named_parameters()), fixture["r1_grad_names"], fixture["r1_grad_norms"])

    generate = generator_of(config)
    generate.load_state_dict(partner.weights(partner.stem))
    with torch.no_grad():
        x0 = generate(x_t, index, fixture.tensor("z"))
        close(x0, fixture["x0_pred"], **OUTPUT)
        steps = int(fixture["T"]) if "T" in fixture else 4  # the README's
        fake = DDGAN(steps).posterior_at(index).sample(x0, x_t, fixture.tensor("post_noise"))
        close(fake, fixture["x_pos"], **OUTPUT)
        on_fake = net(fixture.tensor("x_pos"), index, x_t).logits
    close(on_fake, fixture["D_fake"], **OUTPUT)
    close(loss_on_fake(on_fake), fixture["loss_D_fake"], **LOSS)
    close(loss_on_real(on_fake), fixture["loss_G"], **LOSS)


@case("ddgan_netD_large")
def large_discriminator(fixture: Fixture) -> None:
    config = fixture.config()
    net = DDGANDiscriminator(
        config["nc"] // 2, size="large", model_channels=config["ngf"], time_channels=config["t_emb_dim"]
    )
    net.load_state_dict(fixture.weights(fixture.stem))
    x = fixture.tensor("x")
    assert x.shape[2] == config["image_size"]
    with torch.no_grad():
        logits = net(x, fixture.tensor("t"), fixture.tensor("x_tp1")).logits
    close(logits, fixture["out"].squeeze(1), **OUTPUT)


@case("ddgan_blocks")
def blocks(fixture: Fixture) -> None:
    x = fixture.tensor("x")
    close(fir("up")(x), fixture["up"], **FORMULA)
    close(fir("down")(x), fixture["down"], **FORMULA)
    naive_up, naive_down = Resampling("up"), Resampling("down")
    close(naive_up.apply(x, naive_up.kernel()), fixture["naive_up"], **FORMULA)
    close(naive_down.apply(x, naive_down.kernel()), fixture["naive_down"], **FORMULA)
    weight = fixture.tensor("conv_w")
    conv = FirConv(weight.shape[1], weight.shape[0], "down")
    conv.load_state_dict({"weight": weight, "bias": fixture.tensor("conv_b")})
    close(conv(x), fixture["conv_down"], **FORMULA)

    features, style = fixture.tensor("adagn_x"), fixture.tensor("adagn_style")
    norm = AdaptiveGroupNorm(features.shape[1], style.shape[1])
    norm.load_state_dict({"style.weight": fixture.tensor("adagn_w"), "style.bias": fixture.tensor("adagn_b")})
    close(norm(features, style), fixture["adagn_out"], **FORMULA)

    seen = fixture.tensor("attn_x")
    attention = AttentionBlock(seen.shape[1])
    weights = {key: fixture.tensor(key) for key in fixture if key.startswith("attn_sd/")}
    attention.load_state_dict({key.removeprefix("attn_sd/"): value for key, value in weights.items()})
    close(attention(seen), fixture["attn_out"], **FORMULA)

    close(PixelNorm()(fixture.tensor("pixelnorm_in")), fixture["pixelnorm_out"], **FORMULA)
    for key in (key for key in fixture if key.startswith("temb") and key != "temb_t"):
        close(sinusoids(fixture.tensor("temb_t").float(), int(key.removeprefix("temb"))), fixture[key], **FORMULA)


@case("tdpm_nets")
def tdpm_networks(fixture: Fixture) -> None:
    tag = fixture.stem.removeprefix("tdpm_nets")
    for stem in (f"tdpm_unet{tag}", f"tdpm_stylegan2D{tag}"):
        if not (fixture.folder / f"{stem}.safetensors").is_file():
            pytest.skip(f"{stem}.safetensors is not in this folder")
    config = fixture.config()
    _unet(fixture, config["unet"], fixture.weights(f"tdpm_unet{tag}"))
    _stylegan2(fixture, config["discriminator"], fixture.weights(f"tdpm_stylegan2D{tag}"))


def _unet(fixture: Fixture, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    size = config["image_size"]
    net = DDPMUNet(
        (config["in_channels"], size, size),
        out_channels=config["out_channels"],
        model_channels=config["ch"],
        channel_mult=tuple(config["ch_mult"]),
        num_res_blocks=config["num_res_blocks"],
        attn_resolutions=tuple(config["attn_resolutions"]),
        dropout=config["dropout"],
    ).eval()
    net.load_state_dict(weights)
    x, time = fixture.tensor("x"), fixture.tensor("t")
    with torch.no_grad():
        close(net(x, time), fixture["out"], **OUTPUT)
        for key in (key for key in fixture if key.startswith("out_tmax")):
            shared = torch.tensor([float(key.removeprefix("out_tmax"))])
            close(net(x, shared), fixture[key], **OUTPUT)
            close(net(x, shared.expand(len(x))), fixture[key], **OUTPUT)


def _stylegan2(fixture: Fixture, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    filters = {name: weights.pop(name) for name in list(weights) if name.endswith("resample_filter")}
    for ours in filters.values():
        close(fir("down").resample_filter[0, 0], ours, **FORMULA)
    widest = max(len(value) for name, value in weights.items() if ".conv" in name)
    net = StyleGAN2Discriminator(
        config["resolution"], config["in_channels"], channel_base=config["channel_base"], channel_max=widest
    )
    net.load_state_dict(weights)
    x = fixture.tensor("x").requires_grad_()
    logits = net(x)
    close(logits, fixture["D_logits"], **OUTPUT)
    close(loss_on_real(logits), fixture["softplus_neg"], **LOSS)
    close(loss_on_fake(logits), fixture["softplus_pos"], **LOSS)
    (gradient,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
    close(gradient.square().flatten(1).sum(1), fixture["r1_per_sample"], **OUTPUT)
    close(config["r1_gamma"] / 2 * squared_gradient(logits, x), fixture["r1_loss"], atol=0, rtol=1e-4)
