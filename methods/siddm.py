"""Semi-implicit denoising diffusion models: match the marginals of a step adversarially and its forward conditional
explicitly (Xu et al. 2023, arXiv:2306.12511).

Continuous time in (0, 1] with the cosine schedule: u is the time of the noisier x_u, s = max(u - 1/T, 0) that of the
cleaner x_s. The generator is told 1000 u, the discriminator 1000 s. sigma is infinite at u = 1, so this method keeps
its own time and has no `Denoiser`.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from methods.core.checks import check_channels, check_ema, check_linear_fall, require, require_at_least
from methods.core.process.continuous import Times, pair_of_times
from methods.core.process.posterior import Posterior, diffuse, implicit_step, posterior
from methods.core.rng import ImageRng, StepRng
from methods.core.shapes import per_sample
from methods.core.training.adversarial import loss_on_fake, loss_on_real, standing, with_squared_gradient
from methods.core.training.rates import averaging, falling
from methods.core.training.terms import weighed
from methods.core.types import Adam, Batch, DataSpec, Draws, Ema, Metrics, Nets, Player
from methods.nets.discriminator_output import Verdict
from methods.nets.shapes import shape_of, square_size
from methods.nets.siddm.unet import SIDDMDiscriminator, SIDDMGenerator, Trunk
from methods.nets.small.flat_players import MIXTURES, FlatNet, flat_players


@dataclass(frozen=True)
class Sampling:
    steps: int | None = None  # network calls, each 1 / steps long; None: as many as in training
    noise: Literal["fresh", "kept"] = "fresh"  # between calls: a draw from the posterior, or DDIM's step without one

    def __post_init__(self) -> None:
        require_at_least(1, steps=self.steps)


class Play(NamedTuple):
    """What happens once in a loss; all but times [B, *shape]."""

    times: Times
    x_s: Tensor
    x_u: Tensor
    x0: Tensor  # the generator's image, made from x_u
    fake: Tensor  # x'_s, drawn from the posterior of x_u and it
    renoised: Tensor  # x'_u, one step forward from x'_s
    labels: Tensor | None = None  # [B] int that the networks are told


@dataclass(frozen=True)
class SIDDM:
    """Defaults: the paper's for images. Its simulation on 25 Gaussians: afd renoise, c_target and clean_weight none,
    rates 1e-4 and 4e-4, ema 0. With sees_pair and afd_weight 0 it is DDGAN in continuous time, R included.
    """

    steps: int = 4  # T
    net: Literal["unet", FlatNet] = "mixture-mlp"  # unet: the paper's, for square images
    conditional: bool = False  # on the classes, where the data have any; not for mixtures' networks
    latent: int = 2  # length of z, uniform in [0, 1); the paper's images have none
    width: int | None = None  # channels at channel_mult 1, or hidden units; None: 256, mixtures 100
    depth: int | None = None  # residual blocks per resolution, or hidden layers; None: 2, or 3
    channel_mult: tuple[int, ...] = (2, 2, 2)  # unet: width at each resolution, finest first
    attention: tuple[int, ...] = (16, 8)  # unet: pixels per side where blocks attend
    head_width: int = 64  # unet: channels of an attention head
    dropout: float | None = None  # None: 0.1 for the unet, 0 for others
    trained_times: Literal["all", "visited"] = "all"  # ours: only those that `steps` calls visit, in equal shares
    sees: Literal["marginal", "image"] = "marginal"  # the discriminator: x_s; or x_0, as the released simulation has it
    sees_pair: bool = False  # and x_u
    adversarial_weight: float = 1.0  # 0: the auxiliary terms alone
    afd_weight: float = 1.0  # of the auxiliary forward diffusion terms; 0: the game alone
    afd_weight_last: float | None = None  # ours: what it becomes, log-linearly, ...
    afd_anneal: tuple[int, int] | None = None  # ... between these steps; 20 % and 70 % of the training
    afd: Literal["paper", "exact", "renoise"] = "paper"  # the cross entropy of q(x_u | x_s): see `cross_entropy`
    afd_clip: float | None = 10.0  # of the weight 1 / (2 beta), which has no bound; not of renoise's
    c_target: Literal["renoised", "condition"] | None = "renoised"  # what C regresses: x'_u or x_u; None: there is no C
    clean_weight: float | None = 1.0  # of R, which regresses x_0 from reals; None: there is no R
    generator_lr: float = 2e-4
    discriminator_lr: float = 1e-4
    lr_linear_from: float | None = None  # ours: the share of the training before the rates fall; None: never
    betas: tuple[float, float] = (0.5, 0.999)
    ema: float = 0.9999
    ema_warmup: bool = False  # ours: at first averages forget faster
    r1_gamma: float = 0.0  # ours
    r1_every: int = 8  # steps; not rescaled by it

    Sampling = Sampling

    def __post_init__(self) -> None:
        require_at_least(1, steps=self.steps, width=self.width, depth=self.depth, head_width=self.head_width)
        require_at_least(1, r1_every=self.r1_every)
        require_at_least(0, latent=self.latent, adversarial_weight=self.adversarial_weight, afd_weight=self.afd_weight)
        require_at_least(0, generator_lr=self.generator_lr, discriminator_lr=self.discriminator_lr)
        require_at_least(0, clean_weight=self.clean_weight, r1_gamma=self.r1_gamma)
        told = self.conditional and self.net in MIXTURES
        require(not told, "conditional", self.conditional, f"false beside net {self.net!r}")
        check_channels(self.channel_mult)
        require(0 <= self._dropout < 1, "dropout", self.dropout, "a probability below 1")
        require(self.net == "unet" or not self.dropout, "dropout", self.dropout, f"none beside net {self.net!r}")
        check_ema(self.ema)
        require(self.afd_clip is None or self.afd_clip > 0, "afd_clip", self.afd_clip, "more than 0, or none")
        self._check_annealing()
        check_linear_fall(self.lr_linear_from)

    def players(self) -> tuple[Player, ...]:
        generator, discriminator = (
            Adam(falling(lr, self.lr_linear_from), self.betas) for lr in (self.generator_lr, self.discriminator_lr)
        )
        return (
            Player("discriminator", "discriminator", discriminator),
            Player("generator", "generator", generator, Ema(averaging(self.ema, self.ema_warmup))),
        )

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        generator, discriminator = self._nets(data)
        return {"generator": generator, "discriminator": discriminator}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        shape = batch.images.shape
        noises = ("noise_s", "noise_u", "noise_posterior", "noise_renoise")
        u = rng.uniform(shape[0])
        if self.trained_times == "visited":
            u = (torch.arange(shape[0]) % self.steps + 1) / self.steps
        s, u = self._span(u)
        draws = {"s": s, "u": u, "z": rng.uniform(shape[0], self.latent)}
        return draws | {name: rng.normal(*shape) for name in noises}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        """Discriminator, C and R: eq. 13 and 14; generator: the same game from the other side, with the cross
        entropy. C minimises its regression error, the generator maximises it."""
        weights = self.weights(player, step)
        watched = ["standing"] if self.adversarial_weight else []  # no game, no collapse: all are rightly the mean
        terms = self.terms(player, nets, batch, draws, [*weights, *watched])
        loss = weighed(terms, weights)
        return loss, {name: value.detach() for name, value in {f"{player}_loss": loss, **terms}.items()}

    def weights(self, player: str, step: int) -> dict[str, float]:
        afd = self.afd_weight_at(step)
        found = {f"{player}_adversarial": self.adversarial_weight}
        if self.c_target is not None:
            found["regression"] = -afd if player == "generator" else afd
        if player == "generator":
            return found | {"afd": afd}
        if self.clean_weight is not None:
            found["clean"] = self.clean_weight
        if self.r1_gamma > 0 and step % self.r1_every == 0:
            found["r1"] = self.r1_gamma / 2
        return found

    def terms(self, player: str, nets: Nets, batch: Batch, draws: Draws, wanted: Collection[str]) -> dict[str, Tensor]:
        with torch.set_grad_enabled(player == "generator"):
            play = self.play(nets["generator"], batch.images, draws, batch.labels)
        on_fake = self.judge(nets["discriminator"], play, play.fake if self.sees == "marginal" else play.x0)
        found = {"regression": self._regression(on_fake, play)} if "regression" in wanted else {}
        if player == "generator":
            adversarial = loss_on_real(on_fake.logits)
            return found | {"generator_adversarial": adversarial, "afd": self.cross_entropy(play).mean()}
        real = play.x_s if self.sees == "marginal" else batch.images
        if "r1" in wanted:
            on_real, found["r1"] = with_squared_gradient(lambda x: self.judge(nets["discriminator"], play, x), real)
        else:
            on_real = self.judge(nets["discriminator"], play, real)
        found["discriminator_adversarial"] = loss_on_real(on_real.logits) + loss_on_fake(on_fake.logits)
        if "clean" in wanted:
            found["clean"] = (_head(on_real.clean) - batch.images).square().mean()
        if "standing" in wanted:
            told, noisiest = [batch.labels] if self.conditional else [], play.times.u > 1 - 0.5 / self.steps
            found |= standing(on_real.logits, on_fake.logits, batch.images, play.x0, *told, counted=noisiest)
        return found

    @torch.no_grad()
    def sample(self, nets: Nets, sampling: Sampling, labels: Tensor | None, rng: ImageRng) -> Tensor:
        """One network call per step, z fresh for each; the last returns the generator's image."""
        generate, steps = nets["generator"], sampling.steps or self.steps
        told = [labels] if self.conditional else []
        x = rng.normal(*shape_of(generate))
        for i in reversed(range(steps)):
            times = pair_of_times(x.new_full((len(x),), i / steps), x.new_full((len(x),), (i + 1) / steps))
            x0 = generate(x, 1000 * (times.u[:1] if self.net in MIXTURES else times.u), rng.uniform(self.latent), *told)
            if i == 0:
                x = x0
            elif sampling.noise == "fresh":
                x = self.posterior(times).sample(x0, x, rng.normal(*x.shape[1:]))
            else:
                x = implicit_step(x0, x, times.alpha_bar_s, times.alpha_bar_u)
        return x.float()

    def structure(self) -> Hashable:
        free = ("steps", "trained_times", "adversarial_weight", "afd_weight", "afd_weight_last", "afd_anneal")
        free += ("generator_lr", "discriminator_lr", "lr_linear_from", "ema", "ema_warmup", "r1_gamma", "r1_every")
        return tuple(getattr(self, field.name) for field in fields(self) if field.name not in free), self._turn

    def times(self, u: Tensor) -> Times:
        """u uniform [B] -> the pair of times of a training step."""
        return pair_of_times(*self._span(u))

    def _span(self, u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.clamp(1e-4, 1)
        return (u - 1 / self.steps).clamp(min=0), u

    def posterior(self, times: Times) -> Posterior:
        """q(x_s | x_u, x_0)."""
        return posterior(times.alpha_bar_s, times.beta)

    def play(self, generator: nn.Module, x0: Tensor, draws: Draws, labels: Tensor | None = None) -> Play:
        """A forward chain of each image x0 [B, *shape] and the model's answer to it."""
        told = [labels] if self.conditional else []
        times = pair_of_times(draws["s"], draws["u"])
        x_s = diffuse(x0, times.alpha_bar_s, draws["noise_s"])
        x_u = diffuse(x_s, 1 - times.beta, draws["noise_u"])
        made = generator(x_u, 1000 * self._in_turn(times.u), draws["z"], *told)
        fake = self.posterior(times).sample(made, x_u, draws["noise_posterior"])
        renoised = diffuse(fake, 1 - times.beta, draws["noise_renoise"])
        return Play(times, x_s, x_u, made, fake, renoised, labels)

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
        target = play.renoised if self.c_target == "renoised" else play.x_u
        return (self._weight(play) * (_head(on_fake.noisier) - target).square().flatten(1).mean(1)).mean()

    def _weight(self, play: Play) -> Tensor:
        weight = 1 / (2 * play.times.beta)
        return weight if self.afd_clip is None else weight.clamp(max=self.afd_clip)

    def judge(self, discriminator: nn.Module, play: Play, x: Tensor) -> Verdict:
        told = [play.labels] if self.conditional else []
        return discriminator(x, 1000 * self._in_turn(play.times.s), play.x_u if self.sees_pair else None, *told)

    def _in_turn(self, times: Tensor) -> Tensor:
        """As few of a batch's times as say all, where they repeat: the network embeds them once."""
        return times if self._turn is None or len(times) % self._turn else times[: self._turn]

    @property
    def _turn(self) -> int | None:
        """After so many images the times of a batch repeat; models whose steps divide 16 train as one."""
        if self.trained_times == "all" or self.net not in MIXTURES:
            return None
        return 16 if 16 % self.steps == 0 else self.steps

    def afd_weight_at(self, step: int) -> float:
        if self.afd_anneal is None or self.afd_weight_last is None:
            return self.afd_weight
        first, last = self.afd_anneal
        done = min(max((step - first) / (last - first), 0.0), 1.0)
        return self.afd_weight * (self.afd_weight_last / self.afd_weight) ** done

    def _check_annealing(self) -> None:
        last, between = self.afd_weight_last, self.afd_anneal
        require((last is None) == (between is None), "afd_anneal", between, "it with afd_weight_last, or neither")
        require(last is None or last > 0, "afd_weight_last", last, "more than 0, or none")
        require(last is None or self.afd_weight > 0, "afd_weight", self.afd_weight, "more than 0 to be annealed")
        require(between is None or 0 <= between[0] < between[1], "afd_anneal", between, "two steps, the first before")

    @property
    def _dropout(self) -> float:
        return self.dropout if self.dropout is not None else 0.1 if self.net == "unet" else 0.0

    def _nets(self, data: DataSpec) -> tuple[nn.Module, nn.Module]:
        """Generator, then discriminator."""
        shape, classes = data.shape, data.classes if self.conditional else 0
        heads = self.c_target is not None or self.clean_weight is not None
        if self.net != "unet":
            size = {"latent": self.latent, "width": self.width, "depth": self.depth, "classes": classes}
            return flat_players(self.net, shape, data.std, **size, pair=self.sees_pair, heads=heads)
        square_size(shape, self.net)
        generator = SIDDMGenerator(shape, self._trunk(shape, classes, self.latent))
        seen = (1 + self.sees_pair) * shape[0], *shape[1:]
        return generator, SIDDMDiscriminator(shape[0], self._trunk(seen, classes), heads=heads)

    def _trunk(self, shape: tuple[int, ...], classes: int, latent: int = 0) -> Trunk:
        return Trunk(
            shape[1], shape[0], model_channels=self.width or 256, channel_mult=self.channel_mult,
            num_res_blocks=self.depth or 2, attn_resolutions=self.attention, num_head_channels=self.head_width,
            dropout=self._dropout, latent=latent, classes=classes,
        )  # fmt: skip


def _head(output: Tensor | None) -> Tensor:
    assert output is not None, "this discriminator was built without the head that its loss needs"
    return output
