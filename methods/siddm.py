"""Semi-implicit denoising diffusion models: match the marginals of a step adversarially and its forward conditional
explicitly (Xu et al. 2023, arXiv:2306.12511).

Continuous time in (0, 1] with the cosine schedule: u is the time of the noisier x_u, s = max(u - 1/T, 0) that of the
cleaner x_s. The generator is told 1000 u, the discriminator 1000 s. sigma is infinite at u = 1, so this method keeps
its own time and has no `Denoiser`.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from methods.core.adversarial import loss_on_fake, loss_on_real
from methods.core.checks import require
from methods.core.posterior import Posterior, diffuse, implicit_step, posterior
from methods.core.rng import ImageRng, StepRng
from methods.core.shapes import per_sample
from methods.core.types import Adam, Batch, DataSpec, Draws, Ema, Metrics, Nets, Player
from methods.nets.mixture_mlp import MixtureDiscriminator, MixtureGenerator, Verdict, point_dims, shape_of


@dataclass(frozen=True)
class Sampling:
    steps: int | None = None  # network calls, each 1 / steps long; None: as many as in training
    noise: Literal["fresh", "kept"] = "fresh"  # between calls: a draw from the posterior, or DDIM's step without one

    def __post_init__(self) -> None:
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "at least 1, or none")


class Times(NamedTuple):
    """A pair of times, each [B], and what the schedule makes of them."""

    s: Tensor
    u: Tensor
    alpha_bar_s: Tensor
    alpha_bar_u: Tensor
    beta: Tensor  # of the step from s to u


class Play(NamedTuple):
    """What happens once in a loss; all but times [B, *shape]."""

    times: Times
    x_s: Tensor
    x_u: Tensor
    x0: Tensor  # the generator's image, made from x_u
    fake: Tensor  # x'_s, drawn from the posterior of x_u and it
    renoised: Tensor  # x'_u, one step forward from x'_s


@dataclass(frozen=True)
class SIDDM:
    """Defaults: the paper's for images. Its simulation on 25 Gaussians: afd renoise, c_target and clean_weight none,
    rates 1e-4 and 4e-4, ema 0. With sees_pair and afd_weight 0 it is DDGAN in continuous time.

    Unconditional: labels are not looked at.
    """

    steps: int = 4  # T
    net: Literal["mixture-mlp"] = "mixture-mlp"
    latent: int = 2  # length of z, uniform in [0, 1)
    sees: Literal["marginal", "image"] = "marginal"  # the discriminator: x_s; or x_0, as the released simulation has it
    sees_pair: bool = False  # and x_u
    adversarial_weight: float = 1.0  # 0: the auxiliary terms alone
    afd_weight: float = 1.0  # of the auxiliary forward diffusion terms; 0: the game alone
    afd: Literal["paper", "exact", "renoise"] = "paper"  # the cross entropy of q(x_u | x_s): see `cross_entropy`
    afd_clip: float | None = 10.0  # of the weight 1 / (2 beta), which has no bound; not of renoise's
    c_target: Literal["renoised", "condition"] | None = "renoised"  # what C regresses: x'_u or x_u; None: there is no C
    clean_weight: float | None = 1.0  # of R, which regresses x_0 from reals; None: there is no R
    generator_lr: float = 2e-4
    discriminator_lr: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    ema: float = 0.9999

    Sampling = Sampling

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.latent >= 1, "latent", self.latent, "at least 1")
        require(0 <= self.ema < 1, "ema", self.ema, "at least 0 and below 1")
        require(self.adversarial_weight >= 0, "adversarial_weight", self.adversarial_weight, "at least 0")
        require(self.afd_weight >= 0, "afd_weight", self.afd_weight, "at least 0")

    def players(self) -> tuple[Player, ...]:
        generator, discriminator = (
            Adam(lr=lambda progress, lr=lr: lr, betas=self.betas) for lr in (self.generator_lr, self.discriminator_lr)
        )
        return (
            Player("discriminator", "discriminator", discriminator),
            Player("generator", "generator", generator, Ema(lambda progress: self.ema)),
        )

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        dims = point_dims(data.shape, self.net)
        heads = self.c_target is not None or self.clean_weight is not None
        return {"generator": MixtureGenerator(dims, self.latent), "discriminator": MixtureDiscriminator(dims, heads)}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        shape = batch.images.shape
        noises = ("noise_s", "noise_u", "noise_posterior", "noise_renoise")
        draws = {"u": rng.uniform(shape[0]), "z": rng.uniform(shape[0], self.latent)}
        return draws | {name: rng.normal(*shape) for name in noises}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        """Discriminator, C and R: eq. 3.5 of their own; generator: the same game from the other side, with the cross
        entropy. C minimises its regression error, the generator maximises it."""
        with torch.set_grad_enabled(player == "generator"):
            play = self.play(nets["generator"], batch.images, draws)
        on_fake = self.judge(nets["discriminator"], play, play.fake if self.sees == "marginal" else play.x0)
        regression = self._regression(on_fake, play)
        if player == "generator":
            adversarial = loss_on_real(on_fake.logits)
            afd = self.cross_entropy(play).mean()
            loss = self.adversarial_weight * adversarial + self.afd_weight * (afd - regression)
            return loss, _detached(generator_loss=loss, generator_adversarial=adversarial, afd=afd)
        on_real = self.judge(nets["discriminator"], play, play.x_s if self.sees == "marginal" else batch.images)
        adversarial = loss_on_real(on_real.logits) + loss_on_fake(on_fake.logits)
        loss = self.adversarial_weight * adversarial + self.afd_weight * regression
        if self.clean_weight is not None:
            loss = loss + self.clean_weight * (_head(on_real.clean) - batch.images).square().mean()
        return loss, _detached(discriminator_loss=loss, discriminator_adversarial=adversarial, regression=regression)

    @torch.no_grad()
    def sample(self, nets: Nets, sampling: Sampling, labels: Tensor | None, rng: ImageRng) -> Tensor:
        """One network call per step, z fresh for each; the last returns the generator's image."""
        generate, steps = nets["generator"], sampling.steps or self.steps
        x = rng.normal(*shape_of(generate))
        for i in reversed(range(steps)):
            times = pair_of_times(x.new_full((len(x),), i / steps), x.new_full((len(x),), (i + 1) / steps))
            x0 = generate(x, 1000 * times.u, rng.uniform(self.latent))
            if i == 0:
                x = x0
            elif sampling.noise == "fresh":
                x = self.posterior(times).sample(x0, x, rng.normal(*x.shape[1:]))
            else:
                x = implicit_step(x0, x, times.alpha_bar_s, times.alpha_bar_u)
        return x.float()

    def times(self, u: Tensor) -> Times:
        """u uniform [B] -> the pair of times of a training step."""
        u = u.clamp(1e-4, 1)
        return pair_of_times((u - 1 / self.steps).clamp(min=0), u)

    def posterior(self, times: Times) -> Posterior:
        """q(x_s | x_u, x_0)."""
        return posterior(times.alpha_bar_s, times.beta)

    def play(self, generator: nn.Module, x0: Tensor, draws: Draws) -> Play:
        """A forward chain of each image x0 [B, *shape] and the model's answer to it."""
        times = self.times(draws["u"])
        x_s = diffuse(x0, times.alpha_bar_s, draws["noise_s"])
        x_u = diffuse(x_s, 1 - times.beta, draws["noise_u"])
        made = generator(x_u, 1000 * times.u, draws["z"])
        fake = self.posterior(times).sample(made, x_u, draws["noise_posterior"])
        return Play(times, x_s, x_u, made, fake, diffuse(fake, 1 - times.beta, draws["noise_renoise"]))

    def cross_entropy(self, play: Play) -> Tensor:
        """[B] -log q(x_u | x'_s) up to constants, averaged over an image's values.

        exact: |x_u - sqrt(1 - beta) x'_s|^2 / (2 beta). paper: with x_u's mean sqrt(1 - beta) x_s in its place.
        renoise: |x'_u - x_u|^2, in expectation exact's times 2 beta, hence bounded (the official simulation).
        """
        if self.afd == "renoise":
            return (play.renoised - play.x_u).square().flatten(1).mean(1)
        kept = per_sample((1 - play.times.beta).sqrt(), play.fake)
        target = play.x_u if self.afd == "exact" else kept * play.x_s
        return self._weight(play) * (kept * play.fake - target).square().flatten(1).mean(1)

    def _regression(self, on_fake: Verdict, play: Play) -> Tensor:
        """Mean over images of |C(x'_s) - target|^2 / (2 beta): an upper bound of the entropy of x_u given x'_s."""
        if self.c_target is None:
            return play.x_u.new_zeros(())
        target = play.renoised if self.c_target == "renoised" else play.x_u
        return (self._weight(play) * (_head(on_fake.noisier) - target).square().flatten(1).mean(1)).mean()

    def _weight(self, play: Play) -> Tensor:
        weight = 1 / (2 * play.times.beta)
        return weight if self.afd_clip is None else weight.clamp(max=self.afd_clip)

    def judge(self, discriminator: nn.Module, play: Play, x: Tensor) -> Verdict:
        return discriminator(x, 1000 * play.times.s, play.x_u if self.sees_pair else None)


def alpha_bar(time: Tensor) -> Tensor:
    """The cosine schedule, not normalised: 0.9998 at time 0, so that even there x carries noise of 0.0125."""
    return torch.cos((time + 0.008) / 1.008 * torch.pi / 2).clamp(0, 1).square()


def pair_of_times(s: Tensor, u: Tensor) -> Times:
    alpha_bar_s, alpha_bar_u = alpha_bar(s), alpha_bar(u)
    return Times(s, u, alpha_bar_s, alpha_bar_u, 1 - alpha_bar_u / alpha_bar_s)


def _head(output: Tensor | None) -> Tensor:
    assert output is not None, "this discriminator was built without the head that its loss needs"
    return output


def _detached(**values: Tensor) -> Metrics:
    return {name: value.detach() for name, value in values.items()}
