"""Consistency training: one network call from noise to an image, from a diffusion model or from nothing.

ECT (Geng et al. 2024, arXiv:2406.14548) and iCT (Song and Dhariwal 2023, arXiv:2310.14189). f(x_t; t) shall be constant
along x0 + t noise: it is regressed on f(x_r; r) of the same noise with r < t, and r approaches t during training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from methods.core.checks import require
from methods.core.dropout import repeated_masks
from methods.core.numbers import Count, Fraction, NotNegative, Number, Positive
from methods.core.process.denoise import Coefficients, EDMScheme, Preconditioned
from methods.core.process.noise import edm_grid
from methods.core.rng import ImageRng, StepRng
from methods.core.shapes import per_sample
from methods.core.training.derived import start_from
from methods.core.types import Adam, Batch, DataSpec, Draws, Ema, Metrics, Nets, Parent, Player
from methods.edm import EDM

EPSILON, LARGEST, RHO = 0.002, 80.0, 7.0  # iCT's noise levels: least, largest, and as in EDM
ICT_HUBER = 0.00054  # times the square root of the number of values of an image
FEWEST, MOST = 10, 1280  # iCT's intervals between levels, at first and at last


@dataclass(frozen=True)
class Sampling:
    """One network call for the noise, and one for each later level."""

    sigma_max: Positive = 80.0  # of the noise that sampling starts from
    levels: tuple[Positive, ...] = (0.821,)  # falling; noise of this level is added to the image before; (): one call

    def __post_init__(self) -> None:
        every = (self.sigma_max, *self.levels)
        falls = all(high > low for high, low in pairwise(every))
        require(falls, "levels", self.levels, "levels that fall from sigma_max, above 0,")


@dataclass(frozen=True)
class Consistency:
    """EDM's network as a consistency function. Defaults: ECT on CIFAR-10, from EDM's DDPM++ (`from` in its entry)."""

    net: Literal["song-unet", "ncsnpp", "adm", "mlp"] = "song-unet"  # this and the next six as in EDM
    conditional: bool = True
    width: Count = 128
    depth: Count = 4
    channel_mult: tuple[Count, ...] = (2, 2, 2)
    attention: tuple[Count, ...] = (16,)
    sigma_data: Positive | None = None
    dropout: Fraction | None = None  # with one mask for both evaluations; None: 0.2 for U-Nets, 0 for the mlp; iCT: 0.3
    pairs: Literal["ect", "ict"] = "ect"  # of noise levels; ict: neighbours of a grid that gets finer
    p_mean: Number = -1.1  # mean of ln t
    p_std: Positive = 2.0  # standard deviation of ln t
    q: Positive = 2.0  # ect: t - r falls by this factor from stage to stage
    k: NotNegative = 8.0  # ect: how much smaller r is where t is small
    b: Number = 1.0  # ect: from which t on it is not
    stage_steps: Count = 25_000  # ect: steps in a stage
    first_stage_steps: Count | None = None  # ect: in the first, nearly denoising: more from nothing; None: the same
    total_steps: Count = 400_000  # ict: of the training, over which the grid gets finer
    huber: NotNegative | None = None  # c of sqrt(square + c^2) - c; None: 0 for ect, 0.00054 sqrt(values) for ict
    weighting: Literal["interval", "snr"] = "interval"  # of the loss: 1 / (t - r), or 1 / c_out(t)^2 (ImageNet-64)
    lr: Positive = 1e-4  # RAdam's learning rate, constant
    ema: Fraction = 0.9999  # decay of the averaged weights per step

    Sampling = Sampling
    roles: ClassVar[Mapping[str, bool]] = {"start": False}

    def __post_init__(self) -> None:
        _ = self._edm  # its checks
        require(self.q > 1, "q", self.q, "more than 1")

    def players(self) -> tuple[Player, ...]:
        radam = Adam(lambda progress: self.lr, rectified=True, replace_nonfinite=1e5)
        return (Player("denoiser", "denoiser", radam, Ema(lambda progress: self.ema)),)

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        net = _network(self._edm.build(data))
        if self.pairs == "ict":
            net.scheme = BoundaryScheme(data.std if self.sigma_data is None else self.sigma_data)
        return {"denoiser": net}

    def start(self, nets: Nets, parent: Parent) -> None:
        """From an EDM's network; without its inputs for augmentation, which are as good as none when they are zero."""
        net, other = _network(nets), parent.nets.get("denoiser")
        if not isinstance(other, Preconditioned) or not isinstance(other.scheme, EDMScheme):
            raise ValueError(f"from: a {type(parent.method).__name__} came, an edm.EDM was wanted")
        known = other.scheme.sigma_data
        if isinstance(net.scheme, EDMScheme) and net.scheme.sigma_data != known:
            raise ValueError(
                f"sigma_data: {net.scheme.sigma_data} here, {known} in the run it starts from: make them equal"
            )
        weights = {name: value for name, value in other.state_dict().items() if "map_augment" not in name}
        start_from(net, weights, "denoiser")

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        count = len(batch.images)
        level = rng.normal(count) if self.pairs == "ect" else rng.uniform(count)
        return {"level": level, "noise": rng.normal(*batch.images.shape)}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        net = _network(nets)
        t, r = self.levels(draws["level"], step)
        labels = batch.labels if net.classes else None
        squares = consistency_squares(net, batch.images, t, r, draws["noise"], labels)
        weight = 1 / (t - r) if self.weighting == "interval" else EDMScheme.loss_weight(_scheme(net), t)
        loss = (weight * pseudo_huber(squares, self._huber(batch.images[0].numel()))).mean()
        return loss, {"loss": loss.detach(), "square": squares.detach().mean(), "gap": ((t - r) / t).mean()}

    def levels(self, draws: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """t and r [B] of a step. draws: standard normal for ect, uniform for ict."""
        if self.pairs == "ect":
            t = (draws * self.p_std + self.p_mean).exp()
            return t, earlier(t, self._stage(step), self.q, self.k, self.b)
        sigmas = ict_levels(ict_intervals(step, self.total_steps)).to(draws)
        index = torch.searchsorted(ict_probabilities(sigmas, self.p_mean, self.p_std).cumsum(0), draws)
        index = index.clamp(max=len(sigmas) - 2)
        return sigmas[index + 1], sigmas[index]

    @torch.no_grad()
    def sample(self, nets: Nets, sampling: Sampling, labels: Tensor | None, rng: ImageRng) -> Tensor:
        net = _network(nets)
        levels = (sampling.sigma_max, *sampling.levels)
        return few_calls(net, levels, labels if net.classes else None, rng).float()

    @property
    def _edm(self) -> EDM:
        return EDM(
            net=self.net, conditional=self.conditional, width=self.width, depth=self.depth, sigma_data=self.sigma_data,
            channel_mult=self.channel_mult, attention=self.attention, dropout=self._dropout, augment=0.0,
        )  # fmt: skip

    @property
    def _dropout(self) -> float:
        return self.dropout if self.dropout is not None else 0.0 if self.net == "mlp" else 0.2

    def _stage(self, step: int) -> int:
        first = self.stage_steps if self.first_stage_steps is None else self.first_stage_steps
        return 0 if step < first else 1 + (step - first) // self.stage_steps

    def _huber(self, values: int) -> float:
        if self.huber is not None:
            return self.huber
        return ICT_HUBER * math.sqrt(values) if self.pairs == "ict" else 0.0


@dataclass(frozen=True)
class BoundaryScheme(EDMScheme):
    """EDM's coefficients, shifted so that f is the identity at the least noise level (consistency models)."""

    epsilon: float = EPSILON

    def coefficients(self, sigma: Tensor) -> Coefficients:
        usual, above = super().coefficients(sigma), sigma - self.epsilon
        skip = self.sigma_data**2 / (above**2 + self.sigma_data**2)
        return usual._replace(skip=skip, out=self.sigma_data * above / (sigma**2 + self.sigma_data**2).sqrt())


def consistency_squares(
    net: Preconditioned, x0: Tensor, t: Tensor, r: Tensor, noise: Tensor, labels: Tensor | None
) -> Tensor:
    """[B] squared distances of f(x0 + t noise; t) and the constant f(x0 + r noise; r), x0 where r is 0.

    The second has the live weights and the dropout mask of the first.
    """
    with torch.no_grad(), repeated_masks():
        known = r > 0
        target = net(x0 + per_sample(r, x0) * noise, torch.where(known, r, t), labels)
        target = torch.where(per_sample(known, x0), target, x0.to(target))
    prediction = net(x0 + per_sample(t, x0) * noise, t, labels)
    return (prediction - target).flatten(1).square().sum(1)


def few_calls(net: Preconditioned, levels: Sequence[float], labels: Tensor | None, rng: ImageRng) -> Tensor:
    """[B, *shape] float64: f of noise at the first level, then of the image with fresh noise at each later one."""
    x = levels[0] * rng.normal(*net.shape).double()
    for position, level in enumerate(levels):
        if position:
            x = x + level * rng.normal(*net.shape).double()
        x = net(x, x.new_full((len(x),), level), labels).double()
    return x


def pseudo_huber(squares: Tensor, c: float) -> Tensor:
    """sqrt(square + c^2) - c, the distance itself at c = 0; its gradient is finite at 0."""
    return (squares + c**2 + torch.where(squares == 0, 1e-20, 0.0)).sqrt() - c


def earlier(t: Tensor, stage: int, q: float, k: float, b: float) -> Tensor:
    """ECT's r for t [B], 0 or more."""
    return (t * (1 - q ** -(stage + 1.0) * (1 + k * torch.sigmoid(-b * t)))).clamp(min=0)


def ict_intervals(step: int, steps: int) -> int:
    """The intervals of iCT's grid at a step: they double until there are MOST (section 3.4)."""
    every = steps // (int(math.log2(MOST // FEWEST)) + 1)
    return min(FEWEST * 2 ** (step // max(every, 1)), MOST)


def ict_levels(intervals: int) -> Tensor:
    """[intervals + 1] rising noise levels, float64."""
    return edm_grid(intervals + 1, EPSILON, LARGEST, RHO)[:-1].flip(0)


def ict_probabilities(sigmas: Tensor, p_mean: float, p_std: float) -> Tensor:
    """[intervals] of the lower level of a pair: a log-normal's share of each interval (eq. 10)."""
    share = torch.erf((sigmas.log() - p_mean) / (math.sqrt(2) * p_std)).diff()
    return share / share.sum()


def _network(nets: Nets) -> Preconditioned:
    net = nets["denoiser"]
    assert isinstance(net, Preconditioned)
    return net


def _scheme(net: Preconditioned) -> EDMScheme:
    assert isinstance(net.scheme, EDMScheme)
    return net.scheme
