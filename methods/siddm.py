"""Semi-implicit denoising diffusion models: match the marginals of a step adversarially and its forward conditional
explicitly (Xu et al. 2023, arXiv:2306.12511).

Continuous time in (0, 1] with the cosine schedule: u is the time of the noisier x_u, s = max(u - 1/T, 0) that of the
cleaner x_s. The generator's time input is 1000 u, the discriminator's 1000 s. sigma is infinite at u = 1, so there is
no `Denoiser`.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from methods.core.checks import check_channels, check_conditional, require, require_at_least, require_fraction
from methods.core.numbers import Count, CountOrZero, Fraction, NotNegative, Positive
from methods.core.process.continuous import Times, pair_of_times
from methods.core.process.posterior import Posterior, diffuse, implicit_step, posterior
from methods.core.rng import ImageRng, StepRng
from methods.core.shapes import per_sample
from methods.core.training.adversarial import Game, GameName, loss_on_real, spreads, with_squared_gradient
from methods.core.training.rates import averaging, falling
from methods.core.training.terms import weighed
from methods.core.types import Adam, Batch, DataSpec, Draws, Ema, Metrics, Nets, Player
from methods.nets.discriminator_output import DiscriminatorOutput, head_of
from methods.nets.shapes import shape_of, square_size
from methods.nets.siddm.unet import SIDDMDiscriminator, SIDDMGenerator, Trunk
from methods.nets.small.flat_players import MIXTURES, FlatNet, flat_players


@dataclass(frozen=True)
class Sampling:
    steps: Count | None = None  # network calls, each 1 / steps long; None: as many as in training
    noise: Literal["fresh", "kept"] = "fresh"  # between calls: a draw from the posterior, or DDIM's step without one

    def __post_init__(self) -> None:
        require_at_least(1, steps=self.steps)


CrossEntropy: TypeAlias = Literal["paper", "exact", "renoise"]


class StepTensors(NamedTuple):
    """The tensors of one step that a loss is computed from; all but times and labels [B, *shape]."""

    times: Times
    x_s: Tensor
    x_u: Tensor
    x0: Tensor  # the generator's image from x_u
    fake: Tensor  # x'_s, drawn from q(x_s | x_u, x0)
    renoised: Tensor  # x'_u, one step forward from x'_s
    labels: Tensor | None = None  # [B] int64, input of the networks


@dataclass(frozen=True)
class SIDDM:
    """Defaults: the losses and rates of the paper's image experiments but for C's target, with the network of its
    simulation; for images set `net: unet` and `latent: 0`. As printed: `c_target: renoised`. The simulation on 25
    Gaussians: afd renoise, c_target and clean_weight none, rates 1e-4 and 4e-4, ema 0. With sees_pair and afd_weight 0
    it is DDGAN in continuous time, R included.

    The auxiliary term, cross entropy minus C's error, stands for KL(p(x_u | x'_s) || q(x_u | x_s)). By default it is
    |E[x_u | x'_s] - sqrt(1 - beta) x'_s|^2 + beta with the best C: least at the true denoising law. As printed it is a
    regression: for x_0 ~ N(0, 1) and the times 0.25 and 0.5 it is 0.083 at the truth but -0.120 at the law's mean (the
    default, less beta: 0 and 0.070). With the best discriminator the best normal generator then leaves x'_s given x_u
    0.30 of its variance, the least that the posterior allows; by the default all of it. On 9 modes (two seeds, network
    mixture-fourier of width 64, 800 iterations of batch 128) hq was 0.60 and 0.65 as printed, 0.48 and 0.52 with
    `afd: exact`, whose weight is up to 10 there, and 0.81 and 0.80 by default.
    """

    steps: Count = 4  # T
    net: Literal["unet", FlatNet] = "mixture-mlp"  # unet: the paper's for square images; mixture-mlp: its simulation's
    conditional: bool = False  # on the classes, where the data have any; not for mixtures' networks
    latent: CountOrZero = 2  # length of z, uniform in [0, 1); the paper's images have none
    width: Count | None = None  # channels at channel_mult 1, or hidden units; None: 256, mixtures 100
    depth: Count | None = None  # residual blocks per resolution, or hidden layers; None: 2, or 3
    channel_mult: tuple[Count, ...] = (2, 2, 2)  # unet: width at each resolution, finest first
    attention: tuple[Count, ...] = (16, 8)  # unet: pixels per side where blocks attend
    head_width: Count = 64  # unet: channels of an attention head
    dropout: Fraction | None = None  # None: 0.1 for the unet, 0 for others
    trained_times: Literal["all", "visited"] = "all"  # ours: only those that `steps` calls visit, in equal shares
    sees: Literal["marginal", "image"] = "marginal"  # the discriminator's input: x_s; x_0 as in the released simulation
    sees_pair: bool = False  # the discriminator's input has x_u too
    adversarial_weight: NotNegative = 1.0  # 0: the auxiliary terms alone
    afd_weight: NotNegative = 1.0  # of the auxiliary forward diffusion terms; 0: the adversarial loss alone
    afd_weight_last: NotNegative | None = None  # ours: what it becomes, log-linearly, ...
    afd_anneal: tuple[CountOrZero, CountOrZero] | None = None  # ... between these steps; 20 % and 70 % of the training
    afd: CrossEntropy | None = None  # see `cross_entropy`; None: renoise if C regresses x_u, else paper
    afd_clip: Positive | None = 10.0  # bound of the weight 1 / (2 beta); unused by renoise
    c_target: Literal["renoised", "condition"] | None = "condition"  # C regresses x'_u or x_u; None: no C
    clean_weight: NotNegative | None = 1.0  # of R, which regresses x_0 from reals; None: there is no R
    generator_lr: NotNegative = 2e-4  # Adam's learning rate
    discriminator_lr: NotNegative = 1e-4  # Adam's learning rate
    lr_linear_from: Fraction | None = None  # ours: the share of the training before the rates fall; None: never
    betas: tuple[Fraction, Fraction] = (0.5, 0.999)  # of Adam: decay of its moments per step
    ema: Fraction = 0.9999  # decay of the generator's averaged weights per step
    ema_warmup: bool = False  # ours: a smaller decay in the first steps
    game: GameName = "non-saturating"  # relativistic, ours here: each fake against the real of its row (R3GAN)
    r1_gamma: NotNegative = 0.0  # ours: weight of the R1 penalty, halved; 0: none
    r2_gamma: NotNegative | None = None  # as r1_gamma, on fakes; relativistic only; None: r1_gamma
    r1_every: Count = 8  # steps; not rescaled by it; relativistic: every step, whatever is here

    Sampling = Sampling

    def __post_init__(self) -> None:
        require_at_least(1, steps=self.steps, width=self.width, depth=self.depth, head_width=self.head_width)
        require_at_least(0, latent=self.latent, adversarial_weight=self.adversarial_weight, afd_weight=self.afd_weight)
        require_at_least(0, generator_lr=self.generator_lr, discriminator_lr=self.discriminator_lr)
        require_at_least(0, clean_weight=self.clean_weight)
        self._game()  # checks its fields
        check_conditional(self.conditional, self.net, takes_classes=self.net not in MIXTURES)
        check_channels(self.channel_mult)
        require_fraction(dropout=self.dropout, ema=self.ema, lr_linear_from=self.lr_linear_from)
        require(self.net == "unet" or not self.dropout, "dropout", self.dropout, f"none beside net {self.net!r}")
        require(self.afd_clip is None or self.afd_clip > 0, "afd_clip", self.afd_clip, "more than 0, or none")
        self._check_annealing()

    def players(self) -> tuple[Player, ...]:
        generator, discriminator = (
            Adam(falling(lr, self.lr_linear_from), self.betas) for lr in (self.generator_lr, self.discriminator_lr)
        )
        return (
            Player("discriminator", "discriminator", discriminator),
            Player("generator", "generator", generator, Ema(averaging(self.ema, self.ema_warmup))),
        )

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        return dict(zip(("generator", "discriminator"), self._nets(data)))

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        shape = batch.images.shape
        noises = ("noise_s", "noise_u", "noise_posterior", "noise_renoise")
        u = rng.uniform(shape[0])
        if self.trained_times == "visited":
            u = (rng.row_numbers(shape[0]) % self.steps + 1) / self.steps
        s, u = self._span(u)
        draws = {"s": s, "u": u, "z": rng.uniform(shape[0], self.latent)}
        return draws | {name: rng.normal(*shape) for name in noises}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        """Discriminator, C and R: eq. 13 and 14; generator: the adversarial loss and the cross
        entropy. C minimises its regression error, the generator maximises it."""
        weights = self.weights(player, step)
        # without the adversarial term all images are rightly the mean: that is no collapse
        watched = ["collapse_statistics"] if self.adversarial_weight else []
        terms = self.terms(player, nets, batch, draws, [*weights, *watched])
        loss = weighed(terms, weights)
        return loss, {name: value.detach() for name, value in {f"{player}_loss": loss, **terms}.items()}

    def weights(self, player: str, step: int) -> dict[str, float]:
        afd = self.afd_weight_at(step)
        weights = {f"{player}_adversarial": self.adversarial_weight}
        if self.c_target is not None:
            weights["regression"] = -afd if player == "generator" else afd
        if player == "generator":
            return weights | {"afd": afd}
        if self.clean_weight is not None:
            weights["clean"] = self.clean_weight
        return weights | self._game().penalties(step)

    def terms(self, player: str, nets: Nets, batch: Batch, draws: Draws, wanted: Collection[str]) -> dict[str, Tensor]:
        with torch.set_grad_enabled(player == "generator"):
            tensors = self.step_tensors(nets["generator"], batch.images, draws, batch.labels)
        discriminate = partial(self.discriminate, nets["discriminator"], tensors)
        real, fake = (tensors.x_s, tensors.fake) if self.sees == "marginal" else (batch.images, tensors.x0)
        terms: dict[str, Tensor] = {}

        def output(x: Tensor, penalty: str) -> DiscriminatorOutput:
            if penalty not in wanted:
                return discriminate(x)
            seen, terms[penalty] = with_squared_gradient(discriminate, x)
            return seen

        on_fake = output(fake, "r2")
        if "regression" in wanted:
            terms["regression"] = self.regression(head_of(on_fake.noisier), tensors).mean()
        if player == "generator":
            raised = self._game().compared(on_fake.logits, lambda x: discriminate(x).logits, real)
            return terms | {"generator_adversarial": loss_on_real(raised), "afd": self.cross_entropy(tensors).mean()}
        on_real = output(real, "r1")
        terms["discriminator_adversarial"] = self._game().adversarial_loss(on_real.logits, on_fake.logits)
        if "clean" in wanted:
            terms["clean"] = (head_of(on_real.clean) - batch.images).square().mean()
        if "collapse_statistics" in wanted:
            given, noisiest = [batch.labels] if self.conditional else [], tensors.times.u > 1 - 0.5 / self.steps
            terms |= self._game().logit_statistics(on_real.logits, on_fake.logits)
            terms |= spreads(batch.images, tensors.x0, *given, counted=noisiest)
        return terms

    @torch.no_grad()
    def sample(self, nets: Nets, sampling: Sampling, labels: Tensor | None, rng: ImageRng) -> Tensor:
        """One network call per step, z fresh for each; the last returns the generator's image."""
        generate, steps = nets["generator"], sampling.steps or self.steps
        given = [labels] if self.conditional else []
        x = rng.normal(*shape_of(generate))
        for i in reversed(range(steps)):
            times = pair_of_times(x.new_full((len(x),), i / steps), x.new_full((len(x),), (i + 1) / steps))
            x0 = generate(
                x, 1000 * (times.u[:1] if self.net in MIXTURES else times.u), rng.uniform(self.latent), *given
            )
            if i == 0:
                x = x0
            elif sampling.noise == "fresh":
                x = self.posterior(times).sample(x0, x, rng.normal(*x.shape[1:]))
            else:
                x = implicit_step(x0, x, times.alpha_bar_s, times.alpha_bar_u)
        return x.float()

    def structure(self) -> Hashable:
        free = ("steps", "trained_times", "adversarial_weight", "afd_weight", "afd_weight_last", "afd_anneal")
        free += ("generator_lr", "discriminator_lr", "lr_linear_from", "ema", "ema_warmup", "r1_gamma", "r2_gamma")
        free += ("r1_every",)
        return tuple(getattr(self, field.name) for field in fields(self) if field.name not in free), self._period

    def times(self, u: Tensor) -> Times:
        """u uniform [B] -> the pair of times of a training step."""
        return pair_of_times(*self._span(u))

    def _span(self, u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.clamp(1e-4, 1)
        return (u - 1 / self.steps).clamp(min=0), u

    def posterior(self, times: Times) -> Posterior:
        """q(x_s | x_u, x_0)."""
        return posterior(times.alpha_bar_s, times.beta)

    def step_tensors(self, generator: nn.Module, x0: Tensor, draws: Draws, labels: Tensor | None = None) -> StepTensors:
        """A forward chain of each image x0 [B, *shape], and the generator's samples for it."""
        given = [labels] if self.conditional else []
        times = pair_of_times(draws["s"], draws["u"])
        x_s = diffuse(x0, times.alpha_bar_s, draws["noise_s"])
        x_u = diffuse(x_s, 1 - times.beta, draws["noise_u"])
        made = generator(x_u, 1000 * self._one_period(times.u), draws["z"], *given)
        fake = self.posterior(times).sample(made, x_u, draws["noise_posterior"])
        renoised = diffuse(fake, 1 - times.beta, draws["noise_renoise"])
        return StepTensors(times, x_s, x_u, made, fake, renoised, labels)

    @property
    def cross_entropy_kind(self) -> CrossEntropy:
        return self.afd or ("renoise" if self.c_target == "condition" else "paper")

    def cross_entropy(self, tensors: StepTensors) -> Tensor:
        """[B] -log q(x_u | x'_s) up to constants, averaged over an image's values.

        exact: |x_u - sqrt(1 - beta) x'_s|^2 / (2 beta). paper: with x_u's mean sqrt(1 - beta) x_s in its place.
        renoise: |x'_u - x_u|^2, in expectation exact's times 2 beta, hence bounded (the official simulation).
        """
        if self.cross_entropy_kind == "renoise":
            return (tensors.renoised - tensors.x_u).square().flatten(1).mean(1)
        kept = per_sample((1 - tensors.times.beta).sqrt(), tensors.fake)
        target = tensors.x_u if self.cross_entropy_kind == "exact" else kept * tensors.x_s
        return self._weight(tensors) * (kept * tensors.fake - target).square().flatten(1).mean(1)

    def regression(self, guess: Tensor, tensors: StepTensors) -> Tensor:
        """[B] |C(x'_s) - target|^2, averaged over an image's values; guess: C(x'_s). On the scale of `cross_entropy`:
        with 1 / (2 beta) unless renoise.

        With target x_u an upper bound of the entropy of x_u given x'_s, up to constants. With x'_u it is the noise of a
        forward step once C is at its optimum, whatever the generator makes.
        """
        target = tensors.renoised if self.c_target == "renoised" else tensors.x_u
        error = (guess - target).square().flatten(1).mean(1)
        return error if self.cross_entropy_kind == "renoise" else self._weight(tensors) * error

    def _weight(self, tensors: StepTensors) -> Tensor:
        weight = 1 / (2 * tensors.times.beta)
        return weight if self.afd_clip is None else weight.clamp(max=self.afd_clip)

    def discriminate(self, discriminator: nn.Module, tensors: StepTensors, x: Tensor) -> DiscriminatorOutput:
        given = [tensors.labels] if self.conditional else []
        return discriminator(
            x, 1000 * self._one_period(tensors.times.s), tensors.x_u if self.sees_pair else None, *given
        )

    def _one_period(self, times: Tensor) -> Tensor:
        """One period of a batch's times, where they repeat: the network embeds each time once."""
        return times if self._period is None or len(times) % self._period else times[: self._period]

    @property
    def _period(self) -> int | None:
        """Period of a batch's times, in images; None if they do not repeat. Equal for all steps that divide 16."""
        if self.trained_times == "all" or self.net not in MIXTURES:
            return None
        return 16 if 16 % self.steps == 0 else self.steps

    def afd_weight_at(self, step: int) -> float:
        if self.afd_anneal is None or self.afd_weight_last is None:
            return self.afd_weight
        first, last = self.afd_anneal
        done = min(max((step - first) / (last - first), 0.0), 1.0)
        return self.afd_weight * (self.afd_weight_last / self.afd_weight) ** done

    def _game(self) -> Game:
        return Game(self.game, self.r1_gamma, self.r2_gamma, self.r1_every)

    def _check_annealing(self) -> None:
        last, between = self.afd_weight_last, self.afd_anneal
        require((last is None) == (between is None), "afd_anneal", between, "it with afd_weight_last, or neither")
        require(last is None or last > 0, "afd_weight_last", last, "more than 0, or none")
        require(last is None or self.afd_weight > 0, "afd_weight", self.afd_weight, "more than 0 to be annealed")
        require(between is None or 0 <= between[0] < between[1], "afd_anneal", between, "two steps, the first before")

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
            dropout=0.1 if self.dropout is None else self.dropout, latent=latent, classes=classes,
        )  # fmt: skip
