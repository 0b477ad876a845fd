"""The plain GAN (Goodfellow et al. 2014, arXiv:1406.2661), non-saturating: the one-call baseline of SIDDM's table 1."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.core.adversarial import loss_on_fake, loss_on_real
from methods.core.checks import require
from methods.core.rng import ImageRng, StepRng
from methods.core.types import Adam, Batch, DataSpec, Draws, Metrics, Nets, Player
from methods.nets.mixture_mlp import mlp


@dataclass(frozen=True)
class Sampling:
    """Nothing to choose: one network call."""


@dataclass(frozen=True)
class GAN:
    """Multilayer perceptrons. Defaults: the simulation's widths and rates. Unconditional: labels are not looked at."""

    latent: int = 2  # length of z, uniform in [0, 1)
    width: int = 100
    depth: int = 3  # hidden layers of the generator; the discriminator has one more
    generator_lr: float = 1e-4
    discriminator_lr: float = 4e-4

    Sampling = Sampling

    def __post_init__(self) -> None:
        require(self.latent >= 1, "latent", self.latent, "at least 1")
        require(self.width >= 1, "width", self.width, "at least 1")
        require(self.depth >= 1, "depth", self.depth, "at least 1")

    def players(self) -> tuple[Player, ...]:
        discriminator, generator = (
            Adam(lambda progress, lr=lr: lr, betas=(0.5, 0.999)) for lr in (self.discriminator_lr, self.generator_lr)
        )
        return (Player("discriminator", "discriminator", discriminator), Player("generator", "generator", generator))

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        judge = mlp(math.prod(data.shape), 1, self.width, self.depth + 1)
        return {
            "generator": Maker(self.latent, data.shape, self.width, self.depth),
            "discriminator": nn.Sequential(nn.Flatten(), judge),
        }

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        return {"z": rng.uniform(len(batch.images), self.latent)}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        with torch.set_grad_enabled(player == "generator"):
            fake = nets["generator"](draws["z"])
        on_fake = nets["discriminator"](fake)
        if player == "generator":
            loss = loss_on_real(on_fake)
        else:
            loss = loss_on_real(nets["discriminator"](batch.images)) + loss_on_fake(on_fake)
        return loss, {f"{player}_loss": loss.detach()}

    @torch.no_grad()
    def sample(self, nets: Nets, sampling: Sampling, labels: Tensor | None, rng: ImageRng) -> Tensor:
        return nets["generator"](rng.uniform(self.latent)).float()


class Maker(nn.Module):
    """z [B, latent] -> [B, *shape]."""

    def __init__(self, latent: int, shape: tuple[int, ...], width: int, depth: int) -> None:
        super().__init__()
        self.shape = shape
        self.layers = mlp(latent, math.prod(shape), width, depth)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).reshape(-1, *self.shape)
