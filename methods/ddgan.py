"""Denoising diffusion GANs: a few large denoising steps, each a conditional GAN (Xiao et al. 2022, arXiv:2112.07804).

Index i in 0, ..., T - 1 is the step x_{i+1} -> x_i; both networks are told i, unscaled. The chain's state `index` i is
x_{i+1}; before it lies x_i, and x_0 is the image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from methods.core.adversarial import loss_on_fake, loss_on_real, squared_gradient
from methods.core.chains import Chain, geometric_betas, look_up, vp_betas
from methods.core.checks import require
from methods.core.posterior import Posterior, diffuse
from methods.core.rng import ImageRng, StepRng
from methods.core.types import Adam, Batch, DataSpec, Draws, Ema, Metrics, Nets, Player, Progress
from methods.nets.mixture_mlp import MixtureDiscriminator, MixtureGenerator, point_dims, shape_of


@dataclass(frozen=True)
class Sampling:
    """Nothing to choose: as many network calls as the model has steps."""


@dataclass(frozen=True)
class DDGAN:
    """Defaults: the official CIFAR-10 recipe. Unconditional: labels are not looked at."""

    steps: int = 4  # T
    schedule: Literal["vp", "geometric"] = "vp"
    beta_min: float = 0.1  # geometric: variance at time 0
    beta_max: float = 20.0  # geometric: variance at time 1, below 1
    net: Literal["mixture-mlp"] = "mixture-mlp"
    latent: int = 100  # length of z ~ N(0, I)
    generator_lr: float = 1.6e-4
    discriminator_lr: float = 1.25e-4
    lr_min: float = 1e-5
    epochs: int = 1800  # the learning rates follow a cosine in as many steps
    ema: float = 0.9999
    r1_gamma: float = 0.02
    r1_every: int = 15  # steps; not rescaled by it

    Sampling = Sampling

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(0 < self.beta_min < self.beta_max, "beta_min", self.beta_min, "more than 0 and less than beta_max")
        geometric = self.schedule == "geometric"
        require(not geometric or self.beta_max < 1, "beta_max", self.beta_max, "a variance below 1 (geometric)")
        require(self.latent >= 1, "latent", self.latent, "at least 1")
        require(0 <= self.ema < 1, "ema", self.ema, "at least 0 and below 1")
        require(self.r1_every >= 1, "r1_every", self.r1_every, "at least 1")
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")

    def players(self) -> tuple[Player, ...]:
        generator, discriminator = (
            Adam(lr=self._cosine(lr), betas=(0.5, 0.9)) for lr in (self.generator_lr, self.discriminator_lr)
        )
        average = Ema(decay=lambda progress: self.ema if progress.step else 0.0)  # starts at the first step's result
        return (
            Player("discriminator", "discriminator", discriminator),
            Player("generator", "generator", generator, average),
        )

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        dims = point_dims(data.shape, self.net)
        return {"generator": MixtureGenerator(dims, self.latent), "discriminator": MixtureDiscriminator(dims)}

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
        generate, discriminate, index = nets["generator"], nets["discriminator"], draws["index"]
        x_s, x_t = self.pair(batch.images, index, draws["noise_s"], draws["noise_t"])
        with torch.set_grad_enabled(player == "generator"):
            x0 = generate(x_t, index, draws["z"])
            fake = self.posterior_at(index).sample(x0, x_t, draws["noise_posterior"])
        on_fake = discriminate(fake, index, x_t).logits
        if player == "generator":
            loss = loss_on_real(on_fake)
            return loss, {"generator_loss": loss.detach()}
        due = step % self.r1_every == 0
        x_s.requires_grad_(due)
        on_real = discriminate(x_s, index, x_t).logits
        loss = loss_on_real(on_real) + loss_on_fake(on_fake)
        metrics = {"discriminator_loss": loss.detach()}
        if due:
            r1 = self.r1_gamma / 2 * squared_gradient(on_real, x_s)
            loss, metrics["r1"] = loss + r1, r1.detach()
        return loss, metrics

    @torch.no_grad()
    def sample(self, nets: Nets, sampling: Sampling, labels: Tensor | None, rng: ImageRng) -> Tensor:
        """T network calls; z is fresh for each, and the last step returns the generator's image."""
        generate = nets["generator"]
        x = rng.normal(*shape_of(generate))
        for i in reversed(range(self.steps)):
            index = torch.full((len(x),), i, device=x.device)
            x0 = generate(x, index, rng.normal(self.latent))
            x = self.posterior_at(index).sample(x0, x, rng.normal(*x.shape[1:])) if i else x0
        return x.float()

    @cached_property
    def chain(self) -> Chain:
        betas = {"vp": vp_betas, "geometric": geometric_betas}[self.schedule]
        return Chain.of(betas(self.steps, self.beta_min, self.beta_max))

    def pair(self, x0: Tensor, index: Tensor, noise_s: Tensor, noise_t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_i, x_{i+1}) of one forward chain, i = index [B]."""
        x_s = diffuse(x0, look_up(self.chain.alpha_bar_before, index), noise_s)
        return x_s, diffuse(x_s, 1 - look_up(self.chain.betas, index), noise_t)

    def posterior_at(self, index: Tensor) -> Posterior:
        """q(x_i | x_{i+1}, x_0); at i = 0 it is x_0."""
        return Posterior(*(look_up(table, index) for table in self.chain.posterior))

    def _cosine(self, lr: float) -> Callable[[Progress], float]:
        def law(progress: Progress) -> float:
            epoch = progress.step * (self.epochs + 1) // progress.steps  # the official loop runs one epoch more
            return self.lr_min + (lr - self.lr_min) / 2 * (1 + math.cos(math.pi * epoch / self.epochs))

        return law
