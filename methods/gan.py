"""The plain GAN (Goodfellow et al. 2014, arXiv:1406.2661), non-saturating: the one-call baseline of SIDDM's table 1."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from methods.core.checks import check_conditional, require, require_at_least, require_fraction
from methods.core.numbers import Count, Fraction, NotNegative
from methods.core.rng import ImageRng, StepRng
from methods.core.training.adversarial import Game, GameName, spreads
from methods.core.training.rates import averaging, falling
from methods.core.types import Adam, Batch, DataSpec, Draws, Ema, Metrics, Nets, Player
from methods.nets.layers import Linear
from methods.nets.shapes import point_dims
from methods.nets.small.film_gan import StateDiscriminator, within_range
from methods.nets.small.mixture_fourier import Coordinates, ResidualLayers
from methods.nets.small.mixture_mlp import mlp
from methods.nets.small.mlp import FilmTrunk


@dataclass(frozen=True)
class Sampling:
    """No options: one network call."""


@dataclass(frozen=True)
class GAN:
    """Multilayer perceptrons. Defaults: the simulation's widths and rates."""

    net: Literal["plain", "mixture-fourier", "mlp"] = "plain"  # mixture-fourier: ours, for fine detail; mlp: residual
    conditional: bool = False  # on the classes, where the data have any; mlp only
    latent: Count = 2  # length of z, uniform in [0, 1)
    width: Count = 100  # hidden units
    depth: Count = 3  # hidden layers or blocks of the generator; the discriminator has one more, but in mlp
    generator_lr: NotNegative = 1e-4  # Adam's learning rate
    discriminator_lr: NotNegative = 4e-4  # Adam's learning rate
    betas: tuple[Fraction, Fraction] = (0.5, 0.999)  # of Adam: decay of its moments per step
    lr_linear_from: Fraction | None = None  # ours: the share of the training before the rates fall; None: never
    ema: Fraction | None = None  # ours: decay of the generator's averaged weights per step; None: no average is kept
    ema_warmup: bool = False  # ours: a smaller decay in the first steps
    game: GameName = "non-saturating"  # relativistic, ours here: each fake against the real of its row (R3GAN)
    r1_gamma: NotNegative = 0.0  # ours: weight of the R1 penalty, halved; 0: none
    r2_gamma: NotNegative | None = None  # as r1_gamma, on fakes; relativistic only; None: r1_gamma
    r1_every: Count = 8  # steps; not rescaled by it; relativistic: every step, whatever is here

    Sampling = Sampling

    def __post_init__(self) -> None:
        check_conditional(self.conditional, self.net, takes_classes=self.net == "mlp")
        require_at_least(1, latent=self.latent, width=self.width, depth=self.depth)
        require_at_least(0, generator_lr=self.generator_lr, discriminator_lr=self.discriminator_lr)
        require_fraction(ema=self.ema, lr_linear_from=self.lr_linear_from)
        require(not self.ema_warmup or self.ema is not None, "ema_warmup", self.ema_warmup, "an ema beside it")
        self._game()  # checks its fields

    def players(self) -> tuple[Player, ...]:
        discriminator, generator = (
            Adam(falling(lr, self.lr_linear_from), betas=self.betas)
            for lr in (self.discriminator_lr, self.generator_lr)
        )
        average = None if self.ema is None else Ema(averaging(self.ema, self.ema_warmup))
        return (
            Player("discriminator", "discriminator", discriminator),
            Player("generator", "generator", generator, average),
        )

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        values, width, depth = math.prod(data.shape), self.width, self.depth
        match self.net:
            case "mlp":
                classes = data.classes if self.conditional else 0
                layers = TimelessMlp(self.latent, data.shape, classes, width, depth)
                discriminator = StateDiscriminator(data.shape, classes, width, depth)
            case "mixture-fourier":
                seen = Coordinates(point_dims(data.shape, self.net), data.std)
                layers = nn.Sequential(ResidualLayers(self.latent, width, depth), nn.Linear(width, values))
                hidden = ResidualLayers(seen.width, width, depth + 1, scaled=seen.width)
                discriminator = nn.Sequential(seen, hidden, nn.Linear(width, 1))
            case _:
                discriminator = nn.Sequential(nn.Flatten(), mlp(values, 1, width, depth + 1))
                layers = mlp(self.latent, values, width, depth)
        return {"generator": LatentGenerator(layers, data.shape), "discriminator": discriminator}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        return {"z": rng.uniform(len(batch.images), self.latent)}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        given = [batch.labels] if self.conditional else []
        with torch.set_grad_enabled(player == "generator"):
            fake = nets["generator"](draws["z"], *given)

        def discriminate(x: Tensor) -> Tensor:
            return nets["discriminator"](x, *given)

        if player == "generator":
            loss = self._game().generator_loss(discriminate, batch.images, fake)
            return loss, {"generator_loss": loss.detach()}
        loss, metrics = self._game().discriminator_loss(discriminate, batch.images, fake, step)
        return loss, metrics | spreads(batch.images, fake, *given)

    def _game(self) -> Game:
        return Game(self.game, self.r1_gamma, self.r2_gamma, self.r1_every)

    @torch.no_grad()
    def sample(self, nets: Nets, sampling: Sampling, labels: Tensor | None, rng: ImageRng) -> Tensor:
        given = [labels] if self.conditional else []
        return nets["generator"](rng.uniform(self.latent), *given).float()


class LatentGenerator(nn.Module):
    """z [B, latent], perhaps labels [B] int -> [B, *shape]."""

    def __init__(self, layers: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers, self.shape = layers, shape

    def forward(self, z: Tensor, *given: Tensor | None) -> Tensor:
        return self.layers(z, *given).reshape(-1, *self.shape)


class TimelessMlp(nn.Module):
    """A denoiser's trunk at time 0; images stay within (-1, 1).

    z is scaled to variance 1, and the last layer is not initialised to zeros: if all first images are equal, the
    discriminator has nothing to separate, and digits stay at one image per class (1,500 steps, 1 seed: recall 0).
    """

    def __init__(self, latent: int, shape: tuple[int, ...], classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.trunk = FilmTrunk(latent, classes, width, blocks)
        self.last = Linear(width, math.prod(shape))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.trunk(math.sqrt(12) * (z - 0.5), z.new_zeros(len(z)), labels)
        return within_range(self.last(features).reshape(-1, *self.shape))
