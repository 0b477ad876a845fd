"""Discriminator guidance: a classifier of data against samples corrects the score (Kim et al., arXiv:2211.17091).

The discriminator's inputs are images in variance-preserving coordinates and LinearVP's time tau; `guide` evaluates its
log odds at the denoiser's x and sigma.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from methods.classifier_guidance import Classifier, ClassifierOutput, Trunk
from methods.core.checks import check_labels, require, require_at_least, require_fraction, require_positive
from methods.core.guidance import Guide, WeightLaw, boosted, switched
from methods.core.numbers import Count, Fraction, NotNegative, Number, Positive, Share
from methods.core.process.noise import CosineVP, LinearVP
from methods.core.rng import StepRng
from methods.core.shapes import per_sample
from methods.core.types import Adam, At, Batch, DataSpec, Draws, LogWeight, Metrics, Nets, Player
from methods.nets.adm.guidance_head import guidance_head
from methods.nets.small.encoder import ConvEncoder, MlpEncoder

VP = LinearVP()
HEAD_WIDTH = 64  # channels of an attention head, at most
TIMESTEPS = 999  # the network's time input is in steps, as that of the classifiers whose features it may read

Clock: TypeAlias = Literal["linear", "cosine"]  # schedule of the network's time input
Ratio: TypeAlias = Literal["bce", "lsif", "ukl"]  # how the density ratio r is learned, see `ratio_loss`
LogOdds: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # x_vp [B, *shape], tau [B] -> [B] log d / (1 - d)


@dataclass(frozen=True)
class Use:
    """How a guided run uses the discriminator. Defaults: EDM-G++ on CIFAR-10; with classes: weight 1, boost."""

    weight: Number = 2.0  # in first-order evaluations of a Heun step
    second_weight: Number = 0.0  # in second-order ones, at as many discriminator calls again
    time_min: Positive = 0.01  # the guide acts between these tau: 0.01 is sigma = 0.045
    time_max: Positive = 1.0  # 1 is sigma = 152
    clip: Positive = 1e-5  # d is kept this far from 0 and 1, where the gradient is zero
    boost: bool = False  # more weight at every second step where log odds are below 0; with sample.boost_churn
    boost_factor: Positive = 2.0  # times as much; ADM-G++: 3, 5 or 0.75
    late_weight: Number | None = None  # instead of weight from switch_time on; None: never (ADM-G++ has both)
    switch_time: Share = 0.65  # tau
    norm_scaling: bool = False  # its gradient is rescaled to the norm of the other guides' (ADM-G++, "Scaling")

    def __post_init__(self) -> None:
        require(0 < self.time_min < self.time_max <= 1, "time_min", self.time_min, "0 < time_min < time_max <= 1")
        require(0 <= self.clip < 0.5, "clip", self.clip, "at least 0 and less than 0.5")
        require_positive(boost_factor=self.boost_factor)
        is_plain = self.boost or self.boost_factor == 2.0
        require(is_plain, "boost_factor", self.boost_factor, "none without boost (leave it out)")
        require(0 < self.switch_time < 1, "switch_time", self.switch_time, "between 0 and 1")
        switches = self.late_weight is not None or self.switch_time == 0.65
        require(switches, "switch_time", self.switch_time, "none without late_weight (leave it out)")

    @property
    def law(self) -> WeightLaw:
        law = by_order({1: self.weight, 2: self.second_weight})
        if self.late_weight is not None:
            late = by_order({1: self.late_weight, 2: self.second_weight})
            law = switched(law, late, VP.sigma(torch.tensor(self.switch_time, dtype=torch.float64)).item())
        return boosted(law, self.boost_factor) if self.boost else law

    @property
    def orders(self) -> tuple[int, ...]:
        """Orders of evaluation in which its weight is not 0."""
        weights = {1: self.weight or self.late_weight, 2: self.second_weight}
        return tuple(order for order, weight in weights.items() if weight)


@dataclass(frozen=True)
class Discriminator:
    """Classifier of noisy data against noisy samples at all noise levels: a network from scratch, or the paper's, a
    shallow head of this width and depth on the frozen features of a trained classifier. Training: CIFAR-10's settings.
    """

    body: Literal["mlp", "conv", "head"] = "conv"  # mlp for points too; head: on the trunk's features
    trunk: Classifier | None = None  # whose features the head reads
    conditional: bool = True  # on the classes, where the data have any; a trunk is unconditional
    width: Count = 128  # channels at full resolution, or hidden units
    depth: Count = 2  # residual blocks per resolution, or of the mlp
    dropout: Fraction = 0.0  # of the residual blocks of conv
    clock: Clock = "linear"  # schedule of the network's time input
    density_ratio: Ratio = "bce"  # the loss that the density ratio is learned by, see `ratio_loss`
    time_min: Positive = 1e-5  # least tau in training
    lr: Positive = 3e-4  # Adam's learning rate, constant
    weight_decay: NotNegative = 1e-7  # Adam's
    decoupled: bool = False  # True: AdamW

    Use = Use

    def __post_init__(self) -> None:
        require_at_least(1, width=self.width, depth=self.depth)
        require_fraction(dropout=self.dropout)
        require(self.body == "conv" or self.dropout == 0, "dropout", self.dropout, "none but for conv")
        wanted = "a classifier for the head, and for nothing else"
        require((self.body == "head") == (self.trunk is not None), "trunk", self.trunk, wanted)
        require(0 < self.time_min < 1, "time_min", self.time_min, "between 0 and 1")
        require_positive(lr=self.lr)
        require_at_least(0, weight_decay=self.weight_decay)

    def players(self) -> tuple[Player, ...]:
        adam = Adam(lambda progress: self.lr, weight_decay=self.weight_decay, decoupled=self.decoupled)
        return (Player("discriminator", "discriminator", adam),)

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        classes = data.classes if self.conditional else 0
        estimator = RatioEstimator(self._body(data.shape, classes), classes, self.clock, self.density_ratio)
        nets: dict[str, nn.Module] = {"discriminator": estimator}
        return nets if self.trunk is None else nets | {"trunk": self.trunk.build(data)["classifier"]}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        shape = batch.images.shape
        return {
            "time": rng.uniform(shape[0]),
            "noise": rng.normal(*shape),
            "fake_time": rng.uniform(shape[0]),
            "fake_noise": rng.normal(*shape),
        }

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        """Binary cross-entropy, or a relative, at importance-sampled times, log sigma uniform (eq. 10); accuracy."""
        if batch.fakes is None:
            raise ValueError("a discriminator trains against samples of a generator: this batch has none")
        x0 = torch.cat([batch.images, batch.fakes])
        noise = torch.cat([draws["noise"], draws["fake_noise"]])
        tau = VP.importance_time(torch.cat([draws["time"], draws["fake_time"]]).double(), self.time_min)
        mean, std = VP.mean(tau).to(x0), VP.std(tau).to(x0)
        x_vp = per_sample(mean, x0) * x0 + per_sample(std, x0) * noise
        if self.trunk is not None:
            x_vp = nets["trunk"](x_vp, self.trunk.chain.index_of(VP.sigma(tau))).features
        log_ratio = estimator_of(nets)(x_vp, tau, _labels(batch))
        real, fake = log_ratio[: len(batch.images)], log_ratio[len(batch.images) :]
        loss = ratio_loss(real, fake, self.density_ratio)
        accuracy = torch.cat([real > 0, fake <= 0]).double().mean()
        return loss, {self.density_ratio: loss.detach(), "accuracy": accuracy}

    def guide(self, nets: Nets, labels: Tensor | None, use: Use) -> Guide:
        """The discriminator as a guide of images with these labels [B], unused by an unconditional one."""
        estimator = estimator_of(nets)
        check_labels(labels, estimator.classes)
        trunk = None if self.trunk is None else Trunk(self.trunk, nets["trunk"])
        return density_ratio_guide(lambda x_vp, tau: estimator(x_vp, tau, labels), use, trunk=trunk)

    def _body(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        if self.trunk is not None:
            return self._head(self.trunk.feature_shape(shape), classes)
        if self.body == "mlp":
            return MlpEncoder(shape, label_dim=classes, width=self.width, blocks=self.depth)
        if len(shape) != 3:
            raise ValueError(f"body: 'conv' is for images [C, H, W], but the data have shape {shape}: choose 'mlp'")
        image = shape[0], shape[1], shape[2]
        size = {"model_channels": self.width, "num_blocks": self.depth}
        return ConvEncoder(image, label_dim=classes, dropout=self.dropout, **size)

    def _head(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """On features of this shape: a map from the U-Net's way down, a vector from the mlp."""
        if len(shape) == 1:
            return MlpEncoder(shape, label_dim=classes, width=self.width, blocks=self.depth)
        return guidance_head(
            shape[0], image_size=shape[1], model_channels=self.width, num_res_blocks=self.depth,
            num_head_channels=min(self.width, HEAD_WIDTH), num_classes=classes or None,
        )  # fmt: skip


def _labels(batch: Batch) -> Tensor | None:
    """Of the real images, then of the fakes."""
    if batch.labels is None or batch.fake_labels is None:
        return None
    return torch.cat([batch.labels, batch.fake_labels])


def ratio_loss(real: Tensor, fake: Tensor, kind: Ratio) -> Tensor:
    """A Bregman divergence between the true density ratio and r (section 6 of the paper's appendix).

    real, fake: [B] log r of data and of samples. bce: r = d / (1 - d), cross-entropy of d. lsif: E_fake r^2 / 2 -
    E_real r (least squares). ukl: E_fake r - E_real log r (Kullback-Leibler, unnormalised).
    """
    match kind:
        case "bce":
            is_real = torch.cat([torch.ones_like(real), torch.zeros_like(fake)])
            return binary_cross_entropy_with_logits(torch.cat([real, fake]), is_real)
        case "lsif":
            return (2 * fake).exp().mean() / 2 - real.exp().mean()
        case "ukl":
            return fake.exp().mean() - real.mean()


def log_softplus(raw: Tensor) -> Tensor:
    """log log(1 + e^raw), which is raw itself far below 0."""
    return torch.where(raw < -15, raw, softplus(raw.clamp(min=-15)).log())


class RatioEstimator(nn.Module):
    """log p_data / p_model of images in variance-preserving coordinates, which is log d / (1 - d) of a classifier.

    The time input of `body` follows `clock`, in steps. For lsif r is the softplus of its output (squares of an
    exponential overflow), otherwise the exponential.
    """

    def __init__(self, body: nn.Module, classes: int, clock: Clock, density_ratio: Ratio = "bce") -> None:
        super().__init__()
        self.body, self.classes = body, classes
        self.clock: Clock = clock
        self.is_softplus = density_ratio == "lsif"

    def forward(self, x_vp: Tensor, tau: Tensor, labels: Tensor | None = None) -> Tensor:
        """x_vp [B, ...]; tau [B] in (0, 1] of LinearVP; labels [B], unused without classes -> [B]."""
        if self.classes and labels is None:
            raise ValueError("a conditional discriminator needs the images' classes: pass their labels")
        dtype = next(self.body.parameters()).dtype
        time = TIMESTEPS * network_time(tau, self.clock)
        raw = self.body(x_vp.to(dtype), time.to(dtype), labels if self.classes else None).flatten()
        return log_softplus(raw) if self.is_softplus else raw


def estimator_of(nets: Nets) -> RatioEstimator:
    estimator = nets["discriminator"]
    assert isinstance(estimator, RatioEstimator)
    return estimator


def density_ratio_guide(log_odds: LogOdds, use: Use, together: bool = False, trunk: Trunk | None = None) -> Guide:
    """Any discriminator in VP coordinates as a guide; with a trunk, of its features. together: as in `Guide`."""
    window = VP.sigma(torch.tensor([use.time_min, use.time_max], dtype=torch.float64)).tolist()
    return Guide(
        log_density_ratio(log_odds, use.clip) if trunk is None else feature_ratio(log_odds, use.clip),
        use.law,
        *window,
        orders=use.orders,
        is_density_ratio=True,
        together=together,
        matched=use.norm_scaling,
        trunk=trunk,
    )


def by_order(weights: dict[int, float]) -> WeightLaw:
    """One weight for each order of evaluation."""
    return lambda at, log_weight: torch.full_like(log_weight, weights[at.order])


def log_density_ratio(log_odds: LogOdds, clip: float = 1e-5) -> LogWeight:
    """log p_data / p_model of x at noise level sigma; no gradient where d is within `clip` of 0 or 1 (eq. 8)."""
    bound = largest_log_odds(clip)

    def log_weight(x: Tensor, at: At) -> Tensor:
        x_vp = x * per_sample(torch.rsqrt(1 + at.sigma**2), x)
        return log_odds(x_vp, VP.time(at.sigma)).clamp(-bound, bound)

    return log_weight


def feature_ratio(log_odds: LogOdds, clip: float) -> Callable[[ClassifierOutput, At], Tensor]:
    """`log_density_ratio` of a trunk's output at x."""
    bound = largest_log_odds(clip)
    return lambda output, at: log_odds(output.features, VP.time(at.sigma)).clamp(-bound, bound)


def largest_log_odds(clip: float) -> float:
    return math.log((1 - clip) / clip) if clip else math.inf


def network_time(tau: Tensor, clock: Clock) -> Tensor:
    """tau of the linear schedule, or the cosine schedule's time of equal noise."""
    return tau if clock == "linear" else CosineVP().time(VP.sigma(tau))
