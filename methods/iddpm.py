"""Improved DDPM: learned variances and a hybrid loss (Nichol and Dhariwal 2021, arXiv:2102.09672); ADM trains alike."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from methods.core.ancestral import Predicts, StepNet, Variance, chain_denoiser, read_output, walk
from methods.core.chains import Chain, chain_of, look_up
from methods.core.checks import require
from methods.core.posterior import diffuse
from methods.core.rng import ImageRng, StepRng
from methods.core.types import (
    Adam,
    Batch,
    DataSpec,
    Denoiser,
    Draws,
    Ema,
    Metrics,
    Nets,
    Player,
    Wrap,
    unwrapped,
)
from methods.core.variational import bound_terms
from methods.nets.adm_unet import UNetModel
from methods.nets.mlp import ResidualMlp

Objective: TypeAlias = Literal["mse", "rescaled-mse", "kl", "rescaled-kl"]


@dataclass(frozen=True)
class Sampling:
    """One network call per state visited."""

    spacing: str | None = "250"  # evenly; "90,60,20": by section; "ddim50": one stride; None: all
    eta: float | None = None  # None: ancestral; else DDIM, 0 deterministic
    clip: bool = True  # the predicted image, to [-1, 1]

    def __post_init__(self) -> None:
        require(self.eta is None or 0 <= self.eta <= 1, "eta", self.eta, "between 0 and 1, or none")


class Losses(NamedTuple):
    """Of one batch, each [B]."""

    total: Tensor
    mse: Tensor | None = None
    bound: Tensor | None = None  # bits per dimension, as it enters the total


@dataclass(frozen=True)
class IDDPM:
    """Noise and variance of every state of a chain. Defaults: CIFAR-10. ADM: objective mse, times not rescaled."""

    steps: int = 4000  # T
    schedule: Literal["linear", "cosine"] = "cosine"
    objective: Objective = "rescaled-mse"  # see `losses`
    predicts: Predicts = "noise"
    variance: Variance = "learned"
    rescale_times: bool = True  # tell the network 1000 / T times the step
    net: Literal["unet", "mlp"] = "unet"  # ADM's U-Net for square images; mlp for points too
    conditional: bool = False  # on the classes, where the data have any
    width: int = 128  # channels at channel_mult 1, or hidden units
    depth: int = 3  # residual blocks per resolution, or of the mlp
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)  # U-Net: width at each resolution, finest first
    attention: tuple[int, ...] = (16, 8)  # U-Net: pixels per side where blocks attend
    heads: int = 4
    dropout: float = 0.3  # of the U-Net
    lr: float = 1e-4
    ema: float = 0.9999

    Sampling = Sampling

    def __post_init__(self) -> None:
        least = 21 if self.schedule == "linear" else 2  # scaled to fewer steps, the linear schedule's betas reach 1
        require(self.steps >= least, "steps", self.steps, f"at least {least}")
        require(self.width >= 1, "width", self.width, "at least 1")
        require(self.depth >= 1, "depth", self.depth, "at least 1")
        require(0 <= self.ema < 1, "ema", self.ema, "at least 0 and below 1")

    def players(self) -> tuple[Player, ...]:
        return (Player("denoiser", "denoiser", Adam(lambda progress: self.lr), Ema(lambda progress: self.ema)),)

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        classes = data.classes if self.conditional else 0
        time_scale = 1000 / self.steps if self.rescale_times else 1.0
        return {"denoiser": StepNet(self._body(data.shape, classes), data.shape, classes, time_scale)}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        return {"index": rng.integers(self.steps, len(batch.images)), "noise": rng.normal(*batch.images.shape)}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        index, noise = draws["index"], draws["noise"]
        x_t = diffuse(batch.images, look_up(self.chain.alpha_bar, index), noise)
        output = nets["denoiser"](x_t, index, batch.labels)
        losses = self.losses(self.chain, output, batch.images, noise, index)
        named = {"loss": losses.total, "mse": losses.mse, "bound_bits": losses.bound}
        return losses.total.mean(), {name: value.detach().mean() for name, value in named.items() if value is not None}

    def losses(self, chain: Chain, output: Tensor, x0: Tensor, noise: Tensor, index: Tensor) -> Losses:
        """Of the network's output at the states index [B] of a chain, made from x0 with unit noise [B, ...].

        mse: error of the predicted noise or image; if the variance is learned, plus the bound, which trains it alone
        (hybrid loss, eq. 16). rescaled-mse: with the bound times T / 1000. kl: the bound itself. rescaled-kl: times T.
        """
        x_t = diffuse(x0, look_up(chain.alpha_bar, index), noise)
        if self.objective in ("kl", "rescaled-kl"):
            said = read_output(chain, output, x_t, index, self.predicts, self.variance)
            bound = bound_terms(chain, said, x0, x_t, index, self.variance)
            return Losses(bound * (len(chain) if self.objective == "rescaled-kl" else 1), bound=bound)
        predicted = output[:, : x0.shape[1]]
        target = noise if self.predicts == "noise" else x0
        mse = (target - predicted).square().flatten(1).mean(1)
        if self.variance != "learned":
            return Losses(mse, mse)
        frozen = torch.cat([predicted.detach(), output[:, x0.shape[1] :]], 1)
        said = read_output(chain, frozen, x_t, index, self.predicts, self.variance)
        bound = bound_terms(chain, said, x0, x_t, index, self.variance)
        if self.objective == "rescaled-mse":
            bound = bound * (len(chain) / 1000)
        return Losses(mse + bound, mse, bound)

    def denoiser(self, net: nn.Module, labels: Tensor | None) -> Denoiser:
        return chain_denoiser(lambda x, step: net(x, step, labels), self.chain, self.predicts, self.variance)

    @torch.no_grad()
    def sample(
        self, nets: Nets, sampling: Sampling, labels: Tensor | None, rng: ImageRng, wrap: Wrap = unwrapped
    ) -> Tensor:
        net = nets["denoiser"]
        assert isinstance(net, StepNet)
        x, chain = rng.normal(*net.shape), self.chain.spaced(sampling.spacing)
        return walk(wrap(self.denoiser(net, labels)), x, chain, rng, sampling.eta, self.variance, sampling.clip)

    @property
    def chain(self) -> Chain:
        return chain_of(self.schedule, self.steps)

    def _body(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        channels = shape[0] * (2 if self.variance == "learned" else 1)
        if self.net == "mlp":
            out_shape = (channels, *shape[1:])
            return ResidualMlp(shape, out_shape=out_shape, label_dim=classes, width=self.width, blocks=self.depth)
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ValueError(f"net: 'unet' is for square images, but the data have shape {list(shape)}: choose 'mlp'")
        return UNetModel(
            shape[1],
            shape[0],
            self.width,
            channels,
            num_res_blocks=self.depth,
            attention_resolutions=self.attention,
            dropout=self.dropout,
            channel_mult=self.channel_mult,
            num_classes=classes or None,
            num_heads=self.heads,
            use_scale_shift_norm=True,
        )
