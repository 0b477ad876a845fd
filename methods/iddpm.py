"""Improved DDPM: learned variances and a hybrid loss (Nichol and Dhariwal 2021, arXiv:2102.09672); ADM trains alike."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from methods.core.chain_model import ChainModel
from methods.core.density.variational import bound_terms
from methods.core.labels import check_guidance, drop_labels
from methods.core.numbers import Count, Fraction, NotNegative, Number
from methods.core.process.chains import Chain, look_up
from methods.core.process.posterior import diffuse
from methods.core.rng import StepRng
from methods.core.sampling.ancestral import Predicts, StepNet, Variance, chain_denoiser, check_steps_back, read_output
from methods.core.training.loss_aware import LossHistory, history_of
from methods.core.types import Batch, DataSpec, Denoiser, Draws, Metrics, Nets
from methods.nets.adm.blocks import AttentionOrder
from methods.nets.adm.unet import UNetModel
from methods.nets.dit import DiT
from methods.nets.shapes import square_size
from methods.nets.small.mlp import ResidualMlp
from methods.nets.text import check_text, text_encoder

Objective: TypeAlias = Literal["mse", "rescaled-mse", "kl", "rescaled-kl"]


@dataclass(frozen=True)
class Sampling:
    """One network call per state visited."""

    spacing: str | None = None  # as DDPM's; None: 250 states, or all if fewer
    eta: NotNegative | None = None  # None: ancestral; else DDIM, 0 deterministic
    clip: bool | None = None  # the predicted image, to [-1, 1]; None: yes, unless the data are latents
    cfg_weight: Number = 0.0  # classifier-free guidance: 0 none (Ho and Salimans' w; DiT's and DG's scale is 1 + w)
    cfg_interval: tuple[NotNegative, NotNegative] | None = (
        None  # guide only steps that begin at noise levels (low, high]
    )
    cfg_channels: Count | None = None  # guide only so many channels, the first ones; DiT's printed results: 3

    def __post_init__(self) -> None:
        check_steps_back(self.eta)
        check_guidance(self.cfg_weight, self.cfg_interval, self.cfg_channels)


class Losses(NamedTuple):
    """Of one batch, each [B]."""

    total: Tensor
    mse: Tensor | None = None  # of the predicted noise or image
    bound: Tensor | None = None  # bits per dimension, as it enters the total


@dataclass(frozen=True)
class IDDPM(ChainModel):
    """Noise and variance of every state of a chain. Defaults: CIFAR-10.

    ADM (arXiv:2105.05233) is this with 1000 steps, objective mse, times not rescaled, heads of 64 channels and block
    resampling, at 64 pixels also attention order qkv-first; the rows of its ablation are depth, heads, attention,
    block_resampling and rescale_residuals (table 1), heads or head_width (table 2) and adaptive_norm (table 3).
    """

    steps: Count = 4000  # T
    schedule: Literal["linear", "cosine", "latent"] = "cosine"  # of the noise levels
    objective: Objective = "rescaled-mse"  # see `losses`
    predicts: Predicts = "noise"  # the network's output
    variance: Variance = "learned"  # of a step back: the posterior's, beta, or between the two
    times: Literal["uniform", "loss-aware"] = "uniform"  # of training; loss-aware: for the bound alone (section 3.3)
    rescale_times: bool = True  # the network's time input is 1000 / T times the step
    net: Literal["unet", "dit", "mlp"] = "unet"  # ADM's U-Net or DiT for square images; mlp for points too
    conditional: bool = False  # on the classes, where the data have any
    text: bool = False  # on captions instead of classes: the U-Net attends to their words; see cross_attention
    label_dropout: Fraction = 0.0  # probability that a class or caption is hidden, for classifier-free guidance (0.1)
    width: Count = 128  # channels at channel_mult 1, of a DiT's tokens, or hidden units
    depth: Count = 3  # residual blocks per resolution, or blocks of a DiT or the mlp
    patch: Count = 2  # DiT: pixels per side of a token
    cross_attention: bool = False  # DiT: blocks attend to a caption's words, instead of adding their mean to the time
    channel_mult: tuple[Count, ...] = (1, 2, 2, 2)  # U-Net: width at each resolution, finest first
    attention: tuple[Count, ...] = (16, 8)  # U-Net: pixels per side where blocks attend
    heads: Count = 4  # of attention, unless head_width is set
    head_width: Count | None = None  # channels of an attention head, however many heads; ADM: 64
    attention_order: AttentionOrder = "heads-first"  # U-Net: matters for imported weights alone; see `split_heads`
    block_resampling: bool = False  # U-Net: residual blocks halve and double, as BigGAN's and ADM's, not convolutions
    rescale_residuals: bool = False  # U-Net: by sqrt(1/2); ADM's ablation
    adaptive_norm: bool = True  # U-Net: time and class scale and shift after a norm (AdaGN), or are added before it
    dropout: Fraction = 0.3  # of the U-Net
    lr: NotNegative = 1e-4  # Adam's learning rate, constant
    ema: Fraction = 0.9999  # decay of the averaged weights per step

    Sampling = Sampling

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self.text, self.net, ("unet", "dit"), self.cross_attention)

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        classes = data.classes if self.conditional and not self.text else 0
        hides = bool(classes) and self.label_dropout > 0
        time_scale = 1000 / self.steps if self.rescale_times else 1.0
        body, clips = self._body(data, classes + hides), data.latents is None
        denoiser = StepNet(body, data.shape, classes, time_scale, hides, self.text, clips)
        nets: dict[str, nn.Module] = {"denoiser": denoiser}
        return nets | ({"history": LossHistory(self.steps)} if self.times == "loss-aware" else {})

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        count, is_aware = len(batch.images), self.times == "loss-aware"
        draws = {"time": rng.uniform(count)} if is_aware else {"index": rng.integers(self.steps, count)}
        draws["noise"] = rng.normal(*batch.images.shape)
        return draws | ({"hide": rng.uniform(count)} if self.label_dropout else {})

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        noise, labels, weight = draws["noise"], batch.labels, None
        if self.times == "loss-aware":
            index, weight = history_of(nets["history"]).draw(draws["time"])
        else:
            index = draws["index"]
        if self.label_dropout:
            labels = drop_labels(labels, draws["hide"], self.label_dropout)
        x_t = diffuse(batch.images, look_up(self.chain.alpha_bar, index), noise)
        output = nets["denoiser"](x_t, index, labels)
        losses = self.losses(self.chain, output, batch.images, noise, index)
        named = {"loss": losses.total, "mse": losses.mse, "bound_bits": losses.bound}
        metrics = {name: value.detach().mean() for name, value in named.items() if value is not None}
        if weight is None:
            return losses.total.mean(), metrics
        each = losses.total.detach().double()
        weighted = losses.total * weight.to(losses.total)
        notes = torch.stack([index.double(), each], 1)
        return weighted.mean(), metrics | {"loss": weighted.detach().mean(), "notes": notes}

    def remember(self, player: str, nets: Nets, notes: Tensor) -> None:
        """Record the losses of the times that were drawn, for the next draws. notes: [global batch, 2]."""
        history_of(nets["history"]).remember(notes[:, 0].long(), notes[:, 1])

    def losses(self, chain: Chain, output: Tensor, x0: Tensor, noise: Tensor, index: Tensor) -> Losses:
        """Of the network's output at the states index [B] of a chain, made from x0 with unit noise [B, ...].

        mse: error of the predicted noise or image; if the variance is learned, plus the bound, which trains it alone
        (hybrid loss, eq. 16). rescaled-mse: with the bound times T / 1000. kl: the bound itself. rescaled-kl: times T.
        """
        x_t = diffuse(x0, look_up(chain.alpha_bar, index), noise)
        if self.objective in ("kl", "rescaled-kl"):
            reading = read_output(chain, output, x_t, index, self.predicts, self.variance)
            bound = bound_terms(chain, reading, x0, x_t, index, self.variance)
            return Losses(bound * (len(chain) if self.objective == "rescaled-kl" else 1), bound=bound)
        predicted = output[:, : x0.shape[1]]
        target = noise if self.predicts == "noise" else x0
        mse = (target - predicted).square().flatten(1).mean(1)
        if self.variance != "learned":
            return Losses(mse, mse)
        frozen = torch.cat([predicted.detach(), output[:, x0.shape[1] :]], 1)
        reading = read_output(chain, frozen, x_t, index, self.predicts, self.variance)
        bound = bound_terms(chain, reading, x0, x_t, index, self.variance)
        if self.objective == "rescaled-mse":
            bound = bound * (len(chain) / 1000)
        return Losses(mse + bound, mse, bound)

    def denoiser(self, net: nn.Module, labels: Tensor | None) -> Denoiser:
        return chain_denoiser(lambda x, step: net(x, step, labels), self.chain, self.predicts, self.variance)

    def spacing_and_variance(self, sampling: Sampling) -> tuple[str | None, Variance]:
        return sampling.spacing or str(min(self.steps, 250)), self.variance

    def _body(self, data: DataSpec, classes: int) -> nn.Module:
        shape, text = data.shape, text_encoder(data) if self.text else None
        channels = shape[0] * (2 if self.variance == "learned" else 1)
        if self.net == "mlp":
            out_shape = (channels, *shape[1:])
            return ResidualMlp(shape, out_shape=out_shape, label_dim=classes, width=self.width, blocks=self.depth)
        if self.net == "dit":
            heads = self.heads if self.head_width is None else self.width // self.head_width
            sizes = {"width": self.width, "depth": self.depth, "heads": heads, "patch": self.patch}
            return DiT(shape, channels, **sizes, classes=classes, text=text, cross_attention=self.cross_attention)
        return UNetModel(
            square_size(shape, self.net), shape[0], self.width, channels, num_res_blocks=self.depth,
            attention_resolutions=self.attention, dropout=self.dropout, channel_mult=self.channel_mult,
            num_classes=classes or None, num_heads=self.heads, num_head_channels=self.head_width,
            use_scale_shift_norm=self.adaptive_norm, resblock_updown=self.block_resampling,
            skip_scale=math.sqrt(0.5) if self.rescale_residuals else 1.0,
            use_new_attention_order=self.attention_order == "qkv-first", text=text,
        )  # fmt: skip
