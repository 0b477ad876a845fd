"""Discriminator guidance: a network that tells data from samples corrects the score (Kim et al., arXiv:2211.17091).

The discriminator sees images in variance-preserving coordinates at LinearVP's time tau; `guide` carries its log odds
over to the denoiser's x and sigma.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from methods.core.checks import require
from methods.core.guidance import Guide, WeightLaw, boosted
from methods.core.noise import CosineVP, LinearVP
from methods.core.rng import StepRng
from methods.core.shapes import per_sample
from methods.core.types import Adam, At, Batch, DataSpec, Draws, LogWeight, Metrics, Nets, Player
from methods.nets.encoder import ConvEncoder, MlpEncoder

VP = LinearVP()
TIMESTEPS = 999  # the network is told the time in steps, as the classifiers are whose features it may stand on

Clock: TypeAlias = Literal["linear", "cosine"]  # schedule of the time that the network is told
LogOdds: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # x_vp [B, *shape], tau [B] -> [B] log d / (1 - d)


@dataclass(frozen=True)
class Use:
    """How a guided run uses the discriminator. Defaults: EDM-G++ on CIFAR-10; with classes: weight 1, boost."""

    weight: float = 2.0  # in first-order evaluations of a Heun step
    second_weight: float = 0.0  # in second-order ones, at as many discriminator calls again
    time_min: float = 0.01  # tau between which it acts: 0.01 is sigma = 0.045
    time_max: float = 1.0
    clip: float = 1e-5  # d is kept this far from 0 and 1, where the gradient is zero
    boost: bool = False  # twice the weight, every second step, for samples it doubts; goes with sample.boost_churn

    def __post_init__(self) -> None:
        require(0 < self.time_min < self.time_max <= 1, "time_min", self.time_min, "0 < time_min < time_max <= 1")
        require(0 <= self.clip < 0.5, "clip", self.clip, "at least 0 and less than 0.5")


@dataclass(frozen=True)
class Discriminator:
    """Tells noisy data from noisy samples at all noise levels, one network from scratch.

    Training settings: the paper's for CIFAR-10, whose own network is a head of this width and depth on the frozen
    features of an ImageNet classifier.
    """

    body: Literal["mlp", "conv"] = "conv"
    conditional: bool = True  # on the classes, where the data have any
    width: int = 128  # channels at full resolution, or hidden units
    depth: int = 2  # residual blocks per resolution, or of the mlp
    dropout: float = 0.0  # of the residual blocks of conv
    clock: Clock = "linear"
    time_min: float = 1e-5  # least tau in training
    lr: float = 3e-4
    weight_decay: float = 1e-7
    decoupled: bool = False  # True: AdamW

    Use = Use

    def __post_init__(self) -> None:
        require(self.width >= 1, "width", self.width, "at least 1")
        require(self.depth >= 1, "depth", self.depth, "at least 1")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a probability below 1")
        require(self.body != "mlp" or self.dropout == 0, "dropout", self.dropout, "none for the mlp")
        require(0 < self.time_min < 1, "time_min", self.time_min, "between 0 and 1")
        require(self.lr > 0, "lr", self.lr, "more than 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")

    def players(self) -> tuple[Player, ...]:
        adam = Adam(lambda progress: self.lr, weight_decay=self.weight_decay, decoupled=self.decoupled)
        return (Player("discriminator", "discriminator", adam),)

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        classes = data.classes if self.conditional else 0
        return {"discriminator": Judge(self._body(data.shape, classes), classes, self.clock)}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        shape = batch.images.shape
        return {
            "time": rng.uniform(shape[0]),
            "noise": rng.normal(*shape),
            "fake_time": rng.uniform(shape[0]),
            "fake_noise": rng.normal(*shape),
        }

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        """Binary cross-entropy at importance-sampled times, log sigma uniform (eq. 10); accuracy of d > 1/2."""
        if batch.fakes is None:
            raise ValueError("a discriminator trains against samples of a generator: this batch has none")
        x0 = torch.cat([batch.images, batch.fakes])
        noise = torch.cat([draws["noise"], draws["fake_noise"]])
        tau = VP.importance_time(torch.cat([draws["time"], draws["fake_time"]]).double(), self.time_min)
        mean, std = VP.mean(tau).to(x0), VP.std(tau).to(x0)
        x_vp = per_sample(mean, x0) * x0 + per_sample(std, x0) * noise
        logits = judge_of(nets)(x_vp, tau, _labels(batch))
        is_real = torch.cat([torch.ones(len(batch.images)), torch.zeros(len(batch.fakes))]).to(logits)
        loss = binary_cross_entropy_with_logits(logits, is_real)
        accuracy = ((logits > 0) == (is_real > 0.5)).double().mean()
        return loss, {"bce": loss.detach(), "accuracy": accuracy}

    def guide(self, nets: Nets, labels: Tensor | None, use: Use) -> Guide:
        """The discriminator as a guide of images with these labels [B], unused by an unconditional one."""
        judge = judge_of(nets)
        return density_ratio_guide(lambda x_vp, tau: judge(x_vp, tau, labels), use)

    def _body(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        if self.body == "mlp":
            return MlpEncoder(shape, label_dim=classes, width=self.width, blocks=self.depth)
        if len(shape) != 3:
            raise ValueError(f"body: 'conv' is for images [C, H, W], but the data have shape {shape}: choose 'mlp'")
        return ConvEncoder(
            (shape[0], shape[1], shape[2]),
            label_dim=classes,
            model_channels=self.width,
            num_blocks=self.depth,
            dropout=self.dropout,
        )


def _labels(batch: Batch) -> Tensor | None:
    """Of the real images, then of the fakes."""
    if batch.labels is None or batch.fake_labels is None:
        return None
    return torch.cat([batch.labels, batch.fake_labels])


class Judge(nn.Module):
    """log d / (1 - d) of images in variance-preserving coordinates; `body` sees the time on its own clock, in steps."""

    def __init__(self, body: nn.Module, classes: int, clock: Clock) -> None:
        super().__init__()
        self.body, self.classes = body, classes
        self.clock: Clock = clock

    def forward(self, x_vp: Tensor, tau: Tensor, labels: Tensor | None = None) -> Tensor:
        """x_vp [B, *shape]; tau [B] in (0, 1] of LinearVP; labels [B], unused without classes -> [B]."""
        if self.classes and labels is None:
            raise ValueError("a conditional discriminator judges images of known classes: pass their labels")
        dtype = next(self.body.parameters()).dtype
        time = TIMESTEPS * told_time(tau, self.clock)
        return self.body(x_vp.to(dtype), time.to(dtype), labels if self.classes else None)


def judge_of(nets: Nets) -> Judge:
    judge = nets["discriminator"]
    assert isinstance(judge, Judge)
    return judge


def density_ratio_guide(log_odds: LogOdds, use: Use, together: bool = False) -> Guide:
    """Any discriminator in VP coordinates as a guide; together: as in `Guide`."""
    window = VP.sigma(torch.tensor([use.time_min, use.time_max], dtype=torch.float64)).tolist()
    weights = {1: use.weight, 2: use.second_weight}
    law = by_order(weights)
    return Guide(
        log_density_ratio(log_odds, use.clip),
        boosted(law) if use.boost else law,
        *window,
        orders=tuple(order for order, weight in weights.items() if weight),
        is_density_ratio=True,
        together=together,
    )


def by_order(weights: dict[int, float]) -> WeightLaw:
    """One weight for each order of evaluation."""
    return lambda at, log_weight: torch.full_like(log_weight, weights[at.order])


def log_density_ratio(log_odds: LogOdds, clip: float = 1e-5) -> LogWeight:
    """log p_data / p_model of x at noise level sigma; no gradient where d is within `clip` of 0 or 1 (eq. 8)."""
    bound = math.log((1 - clip) / clip) if clip else math.inf

    def log_weight(x: Tensor, at: At) -> Tensor:
        x_vp = x * per_sample(torch.rsqrt(1 + at.sigma**2), x)
        return log_odds(x_vp, VP.time(at.sigma)).clamp(-bound, bound)

    return log_weight


def told_time(tau: Tensor, clock: Clock) -> Tensor:
    """tau of the linear schedule, or the cosine schedule's time of equal noise."""
    return tau if clock == "linear" else CosineVP().time(VP.sigma(tau))
