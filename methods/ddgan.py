"""Denoising diffusion GANs: a few large denoising steps, each a conditional GAN (Xiao et al. 2022, arXiv:2112.07804).

Index i in 0, ..., T - 1 is the step x_{i+1} -> x_i, and, unscaled, an input of both networks. The chain's state `index`
i is x_{i+1}; the state before it is x_i, and x_0 is the image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from methods.core.checks import check_channels, check_conditional, require, require_at_least, require_fraction
from methods.core.numbers import Count, CountOrZero, Fraction, NotNegative, Positive
from methods.core.process.chains import Chain, cosine_betas, geometric_betas, look_up, vp_betas
from methods.core.process.posterior import Posterior, diffuse
from methods.core.rng import ImageRng, StepRng
from methods.core.training.adversarial import Game, GameName, spreads
from methods.core.training.rates import averaging, falling
from methods.core.types import Adam, Batch, DataSpec, Draws, Ema, Metrics, Nets, Player, Progress
from methods.nets.ncsnpp.blocks import NormAfter
from methods.nets.ncsnpp.discriminator import DDGANDiscriminator, Size
from methods.nets.ncsnpp.generator import NCSNppGenerator, Pyramid
from methods.nets.shapes import shape_of, square_size
from methods.nets.small.flat_players import MIXTURES, FlatNet, flat_players


@dataclass(frozen=True)
class Sampling:
    """No options: as many network calls as the model has steps."""


@dataclass(frozen=True)
class DDGAN:
    """Defaults: the official CIFAR-10 recipe except the network, which for images is `net: ncsnpp`."""

    steps: Count = 4  # T
    schedule: Literal["vp", "geometric", "cosine"] = "vp"  # cosine: improved DDPM's, ours
    beta_min: Positive = 0.1  # geometric: variance at time 0; cosine has none
    beta_max: Positive = 20.0  # geometric: variance at time 1, below 1
    net: Literal["ncsnpp", FlatNet] = "mixture-mlp"  # ncsnpp: the paper's, for square images
    conditional: bool = False  # on the classes, where the data have any; not for mixtures' networks
    latent: Count = 100  # length of z ~ N(0, I)
    width: Count | None = None  # channels at channel_mult 1, or hidden units; None: 128, or 100 (mlp: 256)
    depth: Count | None = None  # residual blocks per resolution, or hidden layers; None: 2, or 3
    channel_mult: tuple[Count, ...] = (1, 2, 2, 2)  # ncsnpp: width at each resolution, finest first
    attention: tuple[Count, ...] = (16,)  # ncsnpp: pixels per side where blocks attend
    dropout: Fraction = 0.0  # ncsnpp
    style_width: Count = 256  # ncsnpp: of the mapped latent
    mapping_layers: CountOrZero = 4  # ncsnpp: hidden layers of its mapping
    norm_after: NormAfter = "adaptive"  # ncsnpp: of a block's second half
    image_in: Pyramid = "residual"  # ncsnpp: how the input image enters every level
    image_out: Pyramid = "none"  # ncsnpp: how the output image is formed from the levels
    discriminator_size: Size = "small"  # ncsnpp: the discriminator halves images three times; "large": six
    discriminator_width: Count = 64  # ncsnpp: channels of the discriminator, doubled three times
    generator_lr: NotNegative = 1.6e-4  # Adam's first learning rate
    discriminator_lr: NotNegative = 1.25e-4  # as generator_lr
    betas: tuple[Fraction, Fraction] = (0.5, 0.9)  # of Adam: decay of its moments per step
    lr_min: NotNegative = 1e-5  # learning rate at the end of the cosine
    epochs: Count = 1800  # the learning rates follow a cosine in as many steps
    lr_linear_from: Fraction | None = None  # ours, in place of the cosine: the share of the training before they fall
    ema: Fraction = 0.9999  # decay of the generator's averaged weights per step
    ema_warmup: bool = False  # ours: a smaller decay in the first steps
    game: GameName = "non-saturating"  # relativistic, ours here: each fake against the real of its row (R3GAN)
    r1_gamma: NotNegative = 0.02  # weight of the R1 penalty, halved
    r2_gamma: NotNegative | None = None  # as r1_gamma, on fakes; relativistic only; None: r1_gamma
    r1_every: Count = 15  # steps; not rescaled by it; relativistic: every step, whatever is here

    Sampling = Sampling

    def __post_init__(self) -> None:
        require_at_least(1, steps=self.steps)
        if self.schedule != "cosine":
            require(0 < self.beta_min < self.beta_max, "beta_min", self.beta_min, "more than 0 and less than beta_max")
        geometric = self.schedule == "geometric"
        require(not geometric or self.beta_max < 1, "beta_max", self.beta_max, "a variance below 1 (geometric)")
        check_conditional(self.conditional, self.net, takes_classes=self.net not in MIXTURES)
        require_at_least(1, latent=self.latent, width=self.width, depth=self.depth, style_width=self.style_width)
        require_at_least(1, discriminator_width=self.discriminator_width, epochs=self.epochs)
        require_at_least(0, mapping_layers=self.mapping_layers, lr_min=self.lr_min)
        require_at_least(0, generator_lr=self.generator_lr, discriminator_lr=self.discriminator_lr)
        check_channels(self.channel_mult)
        require(self.net == "ncsnpp" or not self.dropout, "dropout", self.dropout, f"none beside net {self.net!r}")
        require_fraction(dropout=self.dropout, ema=self.ema, lr_linear_from=self.lr_linear_from)
        self._game()  # checks its fields

    def players(self) -> tuple[Player, ...]:
        law = self._cosine if self.lr_linear_from is None else self._linear
        generator, discriminator = (
            Adam(lr=law(lr), betas=self.betas) for lr in (self.generator_lr, self.discriminator_lr)
        )
        later = averaging(self.ema, self.ema_warmup)
        average = Ema(decay=lambda progress: later(progress) if progress.step else 0.0)  # starts at the first result
        return (
            Player("discriminator", "discriminator", discriminator),
            Player("generator", "generator", generator, average),
        )

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        return dict(zip(("generator", "discriminator"), self._nets(data)))

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        shape = batch.images.shape
        return {
            "index": rng.integers(self.steps, shape[0]),
            "noise_s": rng.normal(*shape),
            "noise_t": rng.normal(*shape),
            "z": rng.normal(shape[0], self.latent),
            "noise_posterior": rng.normal(*shape),
        }

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        generate, index = nets["generator"], draws["index"]
        given = [batch.labels] if self.conditional else []
        x_s, x_t = self.pair(batch.images, index, draws["noise_s"], draws["noise_t"])
        with torch.set_grad_enabled(player == "generator"):
            x0 = generate(x_t, index, draws["z"], *given)
            fake = self.posterior_at(index).sample(x0, x_t, draws["noise_posterior"])

        def discriminate(x: Tensor) -> Tensor:
            return nets["discriminator"](x, index, x_t, *given).logits

        if player == "generator":
            loss = self._game().generator_loss(discriminate, x_s, fake)
            return loss, {"generator_loss": loss.detach()}
        loss, metrics = self._game().discriminator_loss(discriminate, x_s, fake, step)
        return loss, metrics | spreads(batch.images, x0, *given, counted=index == self.steps - 1)

    @torch.no_grad()
    def sample(self, nets: Nets, sampling: Sampling, labels: Tensor | None, rng: ImageRng) -> Tensor:
        """T network calls; z is fresh for each, and the last step returns the generator's image."""
        generate, given = nets["generator"], [labels] if self.conditional else []
        x = rng.normal(*shape_of(generate))
        for i in reversed(range(self.steps)):
            index = torch.full((len(x),), i, device=x.device)
            x0 = generate(x, index, rng.normal(self.latent), *given)
            x = self.posterior_at(index).sample(x0, x, rng.normal(*x.shape[1:])) if i else x0
        return x.float()

    @cached_property
    def chain(self) -> Chain:
        match self.schedule:
            case "cosine":
                return Chain.of(cosine_betas(self.steps))
            case "geometric":
                return Chain.of(geometric_betas(self.steps, self.beta_min, self.beta_max))
        return Chain.of(vp_betas(self.steps, self.beta_min, self.beta_max))

    def pair(self, x0: Tensor, index: Tensor, noise_s: Tensor, noise_t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_i, x_{i+1}) of one forward chain, i = index [B]."""
        x_s = diffuse(x0, look_up(self.chain.alpha_bar_before, index), noise_s)
        return x_s, diffuse(x_s, 1 - look_up(self.chain.betas, index), noise_t)

    def posterior_at(self, index: Tensor) -> Posterior:
        """q(x_i | x_{i+1}, x_0); at i = 0 it is x_0."""
        return Posterior(*(look_up(table, index) for table in self.chain.posterior))

    def _game(self) -> Game:
        return Game(self.game, self.r1_gamma, self.r2_gamma, self.r1_every)

    def _nets(self, data: DataSpec) -> tuple[nn.Module, nn.Module]:
        """Generator, then discriminator."""
        shape, classes = data.shape, data.classes if self.conditional else 0
        if self.net != "ncsnpp":
            size = {"latent": self.latent, "width": self.width, "depth": self.depth}
            return flat_players(self.net, shape, data.std, **size, classes=classes, pair=True)
        square_size(shape, self.net)
        generator = NCSNppGenerator(
            shape, latent=self.latent, model_channels=self.width or 128, channel_mult=self.channel_mult,
            num_res_blocks=self.depth or 2, attn_resolutions=self.attention, dropout=self.dropout,
            style_channels=self.style_width, mapping_layers=self.mapping_layers, norm_after=self.norm_after,
            image_in=self.image_in, image_out=self.image_out, classes=classes,
        )  # fmt: skip
        discriminator = DDGANDiscriminator(
            shape[0], size=self.discriminator_size, model_channels=self.discriminator_width, classes=classes
        )
        return generator, discriminator

    def _linear(self, lr: float) -> Callable[[Progress], float]:
        return falling(lr, self.lr_linear_from)

    def _cosine(self, lr: float) -> Callable[[Progress], float]:
        def law(progress: Progress) -> float:
            epoch = progress.step * (self.epochs + 1) // progress.steps  # the official loop runs one epoch more
            return self.lr_min + (lr - self.lr_min) / 2 * (1 + math.cos(math.pi * epoch / self.epochs))

        return law
