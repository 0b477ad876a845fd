"""Truncated diffusion: a short chain that starts from an adversarial prior (Zheng et al. 2023, arXiv:2202.09671).

Of a fine chain only the first `kept` states remain, indices 0, ..., kept - 1. The prior generates the noisiest of them
from pure noise in one call: by default it is the denoising network itself at step `kept`, whose raw output is the
state.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from methods.core.checks import check_channels, require, require_at_least, require_fraction
from methods.core.numbers import Count, CountOrZero, Fraction, NotNegative, Positive
from methods.core.process.chains import Chain, Schedule, chain_of, look_up
from methods.core.process.posterior import diffuse
from methods.core.rng import BLOCK, ImageRng, StepRng
from methods.core.sampling.ancestral import StepNet, chain_denoiser, check_steps_back, walk
from methods.core.training.adversarial import Game, loss_on_real, spreads
from methods.core.training.rates import averaging, falling
from methods.core.types import Adam, Batch, DataSpec, Denoiser, Draws, Ema, Metrics, Nets, Player, Wrap, unwrapped
from methods.nets.adm.ddpm_unet import DDPMUNet
from methods.nets.shapes import square_size
from methods.nets.small.film_gan import StateDiscriminator
from methods.nets.small.mixture_mlp import mlp
from methods.nets.small.mlp import ResidualMlp
from methods.nets.stylegan2_discriminator import StyleGAN2Discriminator


@dataclass(frozen=True)
class Sampling:
    """One network call for the prior and one per state visited."""

    spacing: str | None = None  # of the kept states; "5": evenly; None: all
    eta: NotNegative | None = None  # None: ancestral; else DDIM, 0 deterministic
    variance: Literal["small", "large"] = "large"  # of ancestral steps: the posterior's, or beta
    clip: bool | None = None  # the predicted image, to [-1, 1]; None: in ancestral steps (official code), latents never

    def __post_init__(self) -> None:
        check_steps_back(self.eta, self.variance)


@dataclass(frozen=True)
class TDPM:
    """Defaults: the official CIFAR-10 recipe except the networks, which for images are `net: unet` and
    `discriminator: stylegan2` with discriminator_lr 2.5e-3."""

    kept: CountOrZero = 500  # states that are denoised; 0: a plain GAN
    steps: Count = 1000  # of the fine chain
    schedule: Schedule = "linear"  # of the fine chain's noise levels
    prior: Literal["shared", "separate"] = "shared"  # by the denoising network, or by a network of its own
    release_indexing: bool = False  # the prior is trained one state noisier than the first denoised, as in the release
    net: Literal["unet", "mlp"] = "mlp"  # unet: the paper's, for square images; mlp for points too
    discriminator: Literal["stylegan2", "mlp", "residual-mlp"] = "mlp"  # residual-mlp: ours, compares a group of states
    conditional: bool = False  # on the classes, where the data have any; then the discriminator is residual-mlp
    width: Count = 256  # channels at channel_mult 1 (paper: 128), or hidden units; of MLP discriminators too
    depth: Count = 3  # residual blocks per resolution (paper: 2), or of the mlp; of MLP discriminators too
    channel_mult: tuple[Count, ...] = (1, 2, 2, 2)  # unet: width at each resolution, finest first
    attention: tuple[Count, ...] = (16,)  # unet: pixels per side where blocks attend
    dropout: Fraction | None = None  # None: 0.1 for the unet, 0 for the mlp
    discriminator_base: Count = 16384  # stylegan2: channels times pixels per side of a level, ...
    discriminator_max: Count = 512  # ... of no more channels than these
    denoiser_lr: NotNegative = 2e-4  # Adam's learning rate
    prior_lr: NotNegative = 2e-5  # Adam's learning rate, also where the prior is the denoising network
    discriminator_lr: NotNegative = 2e-4  # 2.5e-3 is for StyleGAN2's equalised layers
    lr_linear_from: Fraction | None = None  # ours: the share of the training before the rates fall; None: never
    clip_norm: Positive | None = 1.0  # of the denoiser's gradient
    ema: Fraction = 0.9999  # of the denoiser's steps only, also where the prior trains the same network
    ema_warmup: bool = False  # ours: a smaller decay in the first steps
    r1_gamma: NotNegative = 0.01  # weight of the R1 penalty, halved
    r1_every: Count = 16  # steps; not rescaled by it

    Sampling = Sampling

    def __post_init__(self) -> None:
        last = self.steps - 1 if self.release_indexing else self.steps
        require(0 <= self.kept <= last, "kept", self.kept, f"between 0 and {last}")
        fits = self.discriminator == "residual-mlp" or not self.conditional
        require(fits, "discriminator", self.discriminator, "'residual-mlp' beside conditional")
        require_at_least(1, width=self.width, depth=self.depth, r1_every=self.r1_every)
        require_at_least(1, discriminator_base=self.discriminator_base, discriminator_max=self.discriminator_max)
        require_at_least(0, denoiser_lr=self.denoiser_lr, prior_lr=self.prior_lr, r1_gamma=self.r1_gamma)
        require_at_least(0, discriminator_lr=self.discriminator_lr)
        check_channels(self.channel_mult)
        require(self.net == "unet" or not self.dropout, "dropout", self.dropout, "none for the mlp (leave it out)")
        require_fraction(dropout=self.dropout, ema=self.ema, lr_linear_from=self.lr_linear_from)

    def players(self) -> tuple[Player, ...]:
        """The average is taken between the denoiser's step and the prior's on the same network."""
        average = Ema(averaging(self.ema, self.ema_warmup))
        denoiser, prior, discriminator = (
            falling(lr, self.lr_linear_from) for lr in (self.denoiser_lr, self.prior_lr, self.discriminator_lr)
        )
        betas, averages_prior = (0.0, 0.99), not self.kept or self.prior == "separate"
        adversaries = (
            Player("prior", self.prior_net, Adam(prior, betas), average if averages_prior else None),
            Player("discriminator", "discriminator", Adam(discriminator, betas)),
        )
        first = Player("denoiser", "denoiser", Adam(denoiser, clip_norm=self.clip_norm), average)
        return (first, *adversaries) if self.kept else adversaries

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        classes = data.classes if self.conditional else 0
        names = {"denoiser", self.prior_net} if self.kept else {self.prior_net}
        nets: dict[str, nn.Module] = {
            name: StepNet(self._body(data.shape, classes), data.shape, classes, clips=data.latents is None)
            for name in sorted(names)
        }
        return nets | {"discriminator": self._discriminator(data.shape, classes)}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        count, *shape = batch.images.shape
        if player == "denoiser":
            blocks = rng.integers(self.kept, count).split(BLOCK)
            index = [antithetic(block[: (len(block) + 1) // 2], self.kept, len(block)) for block in blocks]
            return {"index": torch.cat(index), "noise": rng.normal(count, *shape)}
        if player == "prior":
            return {"z": rng.normal(count, *shape)}
        return {"z": rng.normal(count, *shape), "noise": rng.normal(count, *shape)}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        """denoiser: squared error of the noise, summed over an image; others: adversarial losses on states."""
        if player == "denoiser":
            net, labels = nets["denoiser"], batch.labels
            loss = self.denoising_errors(net, batch.images, draws["index"], draws["noise"], labels).mean()
            return loss, {"denoiser_loss": loss.detach()}
        with torch.set_grad_enabled(player == "prior"):
            fake = self.begin(nets, draws["z"], batch.labels)
        given = self._class_inputs(batch.labels)
        if player == "prior":
            loss = loss_on_real(nets["discriminator"](fake, *given))
            return loss, {"prior_loss": loss.detach()}
        real = self.prior_target(batch.images, draws["noise"])
        game = Game("non-saturating", self.r1_gamma, r1_every=self.r1_every)
        loss, metrics = game.discriminator_loss(lambda x: nets["discriminator"](x, *given), real, fake, step)
        return loss, metrics | spreads(real, fake, *given)

    def denoising_errors(
        self, net: nn.Module, x0: Tensor, index: Tensor, noise: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """[B] |noise - predicted|^2, summed over an image's values."""
        x_t = diffuse(x0, look_up(self.chain.alpha_bar, index), noise)
        return (noise - net(x_t, index, *self._class_inputs(labels))).square().flatten(1).sum(1)

    def prior_target(self, x0: Tensor, noise: Tensor) -> Tensor:
        """The state whose distribution the prior learns; without a chain, the image."""
        if self.kept == 0:
            return x0
        level = self.kept if self.release_indexing else self.kept - 1
        return diffuse(x0, self.chain.alpha_bar[level].expand(len(x0)), noise)

    def begin(self, nets: Nets, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """The noisiest kept state, from z ~ N(0, I) [B, *shape]."""
        step = torch.full((len(z),), self.kept, device=z.device)
        return nets[self.prior_net](z, step, *self._class_inputs(labels))

    def denoiser(self, net: nn.Module, labels: Tensor | None) -> Denoiser:
        return chain_denoiser(lambda x, step: net(x, step, *self._class_inputs(labels)), self.kept_chain)

    @torch.no_grad()
    def sample(
        self, nets: Nets, sampling: Sampling, labels: Tensor | None, rng: ImageRng, wrap: Wrap = unwrapped
    ) -> Tensor:
        net = nets[self.prior_net]
        assert isinstance(net, StepNet)
        x = self.begin(nets, rng.normal(*net.shape), labels)
        if self.kept == 0:
            return x.float()
        chain = self.kept_chain.spaced(sampling.spacing)
        denoise = wrap(self.denoiser(nets["denoiser"], labels))
        clip = net.clips and sampling.eta is None if sampling.clip is None else sampling.clip
        return walk(denoise, x, chain, rng, sampling.eta, sampling.variance, clip)

    @property
    def prior_net(self) -> str:
        return "denoiser" if self.prior == "shared" else "prior"

    @property
    def chain(self) -> Chain:
        """The fine one."""
        return chain_of(self.schedule, self.steps)

    @property
    def kept_chain(self) -> Chain:
        return self.chain.kept(torch.arange(self.kept))

    def _class_inputs(self, labels: Tensor | None) -> list[Tensor | None]:
        """The labels as the networks' extra arguments: none if they are unconditional."""
        return [labels] if self.conditional else []

    @property
    def _dropout(self) -> float:
        return self.dropout if self.dropout is not None else 0.1 if self.net == "unet" else 0.0

    def _body(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        if self.net == "mlp":
            return ResidualMlp(shape, label_dim=classes, width=self.width, blocks=self.depth)
        square_size(shape, self.net)
        return DDPMUNet(
            shape, model_channels=self.width, channel_mult=self.channel_mult, num_res_blocks=self.depth,
            attn_resolutions=self.attention, dropout=self._dropout, classes=classes,
        )  # fmt: skip

    def _discriminator(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        match self.discriminator:
            case "stylegan2":
                size = square_size(shape, self.discriminator)
                base, most = self.discriminator_base, self.discriminator_max
                return StyleGAN2Discriminator(size, shape[0], channel_base=base, channel_max=most)
            case "residual-mlp":
                return StateDiscriminator(shape, classes, self.width, self.depth)
        return nn.Sequential(nn.Flatten(), mlp(math.prod(shape), 1, self.width, self.depth))


def antithetic(half: Tensor, kept: int, count: int) -> Tensor:
    """[count] indices in 0, ..., kept - 1: `half`, then its mirror images."""
    return torch.cat([half, kept - 1 - half])[:count]
