"""EDM: diffusion with preconditioned denoisers and Heun's method (Karras et al. 2022, arXiv:2206.00364)."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from methods.core.checks import (
    check_channels,
    check_label_dropout,
    require,
    require_at_least,
    require_fraction,
    require_positive,
)
from methods.core.labels import check_guidance, classifier_free_denoiser, drop_labels
from methods.core.numbers import Count, CountOrZero, Fraction, MaybeInfinite, NotNegative, Number, Positive, Probability
from methods.core.process.denoise import EDMScheme, Preconditioned, denoising_errors
from methods.core.process.noise import GeometricVE, LinearVP, SubVP, edm_grid
from methods.core.rng import ImageRng, StepRng
from methods.core.sampling.flow import begin, flow, grid_along, reverse_sde, sub_vp_path, ve_path, vp_path
from methods.core.sampling.samplers import LINEAR, BoostedChurn, Churn, ChurnLaw, Path, follow, heun
from methods.core.training.augment import AUGMENT_LABELS, Transform, augment, draw_transform, labels_of
from methods.core.types import (
    Adam,
    Batch,
    DataSpec,
    Denoiser,
    Draws,
    Ema,
    Metrics,
    Nets,
    Player,
    Prediction,
    Progress,
    Source,
    Wrap,
    unwrapped,
)
from methods.nets.dit import DiT
from methods.nets.edm.dhariwal_unet import DhariwalUNet
from methods.nets.edm.song_unet import SongUNet
from methods.nets.shapes import square_size
from methods.nets.small.mlp import ResidualMlp
from methods.nets.text import check_text, text_encoder

AUGMENT = "augment_"  # prefix of Transform's fields among a step's draws
DIT_TIME_SCALE = 400  # of ln(sigma) / 4: the noise levels then cover about as much as the 1000 steps DiT was made for


class Curve(NamedTuple):
    """The path that a solver follows and its noise levels."""

    path: Path
    sigmas: Tensor  # [steps + 1] falling to 0


PATHS = {"vp": vp_path(LinearVP()), "sub-vp": sub_vp_path(SubVP()), "ve": ve_path(GeometricVE())}


@dataclass(frozen=True)
class Sampling:
    """Algorithms 1 and 2: 2 steps - 1 network evaluations per image."""

    steps: Count = 18  # CIFAR-10; 40 at 64 pixels; rk45 chooses its own
    sigma_min: Positive = 0.002  # least noise level before 0, in image units
    sigma_max: Positive = 80.0  # first noise level, in image units
    rho: Positive = 7.0  # levels are uniform in sigma^(1/rho)
    churn: NotNegative = 0.0  # S_churn; ImageNet-64: 40 with 256 steps, levels 0.05 to 50 and churn_noise 1.003
    churn_min: NotNegative = 0.0  # S_min: churn at noise levels from this ...
    churn_max: MaybeInfinite = float("inf")  # S_max: ... to this
    churn_noise: Positive = 1.0  # S_noise
    boost_churn: Positive | None = None  # S_churn for samples whose discriminator's log odds are below 0 (EDM-G++: 4)
    boost_period: Count = 5  # every how many steps
    solver: Literal["heun", "euler", "rk45", "sde"] = "heun"  # sde: the reverse SDE, by Euler and Maruyama
    process: Literal["edm", "vp", "sub-vp", "ve"] = "edm"  # whose path is followed; score SDEs': levels uniform in time
    tolerance: Positive = 1e-5  # of rk45, relative and absolute
    cfg_weight: Number = 0.0  # classifier-free guidance: 0 none (Ho and Salimans' w; DiT's and DG's scale is 1 + w)
    cfg_interval: tuple[NotNegative, NotNegative] | None = (
        None  # guide only steps that begin at noise levels (low, high]
    )
    cfg_channels: Count | None = None  # guide only so many channels, the first ones; DiT's printed results: 3

    def __post_init__(self) -> None:
        solvers, processes = ("heun", "euler", "rk45", "sde"), ("edm", *PATHS)
        require(self.solver in solvers, "solver", self.solver, f"one of {', '.join(solvers)}")
        require(self.process in processes, "process", self.process, f"one of {', '.join(processes)}")
        require_at_least(1, steps=self.steps, boost_period=self.boost_period)
        require_positive(sigma_min=self.sigma_min, rho=self.rho, churn_noise=self.churn_noise)
        require_positive(boost_churn=self.boost_churn, tolerance=self.tolerance)
        require(self.sigma_max > self.sigma_min, "sigma_max", self.sigma_max, f"more than sigma_min, {self.sigma_min},")
        require_at_least(0, churn=self.churn)
        churns = self.solver in ("heun", "euler") or self.churn_law is None
        require(churns, "solver", self.solver, "heun or euler, as there is churn,")
        check_guidance(self.cfg_weight, self.cfg_interval, self.cfg_channels)
        even = self.process == "edm" or self.rho == 7.0
        require(even, "rho", self.rho, f"none beside process {self.process} (leave it out)")

    @property
    def churn_law(self) -> ChurnLaw | None:
        usual = Churn(self.churn, self.churn_min, self.churn_max, self.churn_noise)
        if self.boost_churn is not None:
            return BoostedChurn(usual, self.boost_churn, self.boost_period)
        return usual if self.churn else None

    def curve(self, low: float, high: float) -> Curve:
        """low, high: the network's least and largest noise level; the curve stays within them."""
        low, high = max(self.sigma_min, low), min(self.sigma_max, high)
        if self.process == "edm":
            return Curve(LINEAR, edm_grid(self.steps, low, high, self.rho))
        path = PATHS[self.process]
        return Curve(path, grid_along(path, self.steps, low, high))


@dataclass(frozen=True)
class EDM:
    """A denoiser for every noise level, trained at log-normal ones. Defaults: CIFAR-10, DDPM++ (table 7)."""

    net: Literal["song-unet", "ncsnpp", "adm", "dit", "mlp"] = "song-unet"  # for square images; mlp for points too
    conditional: bool = True  # on the classes, where the data have any
    text: bool = False  # DiT: on captions instead of classes
    label_dropout: Fraction = 0.0  # probability that a class or caption is hidden, for classifier-free guidance (0.1)
    width: Count = 128  # channels at channel_mult 1, of a DiT's tokens, or hidden units
    depth: Count = 4  # residual blocks per resolution, or blocks of a DiT or the mlp
    heads: Count = 4  # DiT: of attention
    patch: Count = 2  # DiT: pixels per side of a token
    cross_attention: bool = False  # DiT: blocks attend to a caption's words, instead of adding their mean to the time
    channel_mult: tuple[Count, ...] = (2, 2, 2)  # U-Nets: width at each resolution, finest first
    attention: tuple[Count, ...] = (16,)  # U-Nets: pixels per side where blocks attend
    dropout: Fraction | None = None  # None: 0.13 for U-Nets, 0 for others
    augment: Probability | None = None  # of each non-leaky augmentation; None: 0.12 for U-Nets, 0 for others
    sigma_data: Positive | None = None  # standard deviation of the data; None: as measured (paper: 0.5)
    p_mean: Number = -1.2  # mean of ln sigma in training
    p_std: Positive = 1.2  # standard deviation of ln sigma in training
    lr: Positive = 1e-3  # Adam's learning rate after the ramp-up
    lr_rampup_images: CountOrZero = 10_000_000  # linear from 0; choose far fewer for a short training
    lr_decay: Literal["linear"] | None = None  # to 0 over the training (paper: none)
    ema_halflife_images: Count = 500_000  # of the averaged weights
    ema_rampup: Positive | None = 0.05  # half-life at most this share of the images seen so far

    Sampling = Sampling

    def __post_init__(self) -> None:
        require_at_least(1, width=self.width, depth=self.depth)
        check_channels(self.channel_mult)
        require_fraction(dropout=self.dropout)
        check_label_dropout(self.label_dropout, self.conditional or self.text)
        check_text(self.text, self.net, ("dit",), self.cross_attention)
        none = f"none for net {self.net!r} (leave it out)"
        require(self._is_unet or self._dropout == 0, "dropout", self.dropout, none)
        require(0 <= self._augment <= 1, "augment", self.augment, "a probability")
        require(self._is_unet or self._augment == 0, "augment", self.augment, none)
        require_positive(sigma_data=self.sigma_data, p_std=self.p_std, lr=self.lr, ema_rampup=self.ema_rampup)
        require_positive(ema_halflife_images=self.ema_halflife_images)
        require_at_least(0, lr_rampup_images=self.lr_rampup_images)

    def players(self) -> tuple[Player, ...]:
        adam = Adam(self.learning_rate, replace_nonfinite=1e5)
        return (Player("denoiser", "denoiser", adam, Ema(self.ema_decay)),)

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        classes = data.classes if self.conditional and not self.text else 0
        scheme = EDMScheme(data.std if self.sigma_data is None else self.sigma_data)
        return {"denoiser": Preconditioned(self._body(data, classes), data.shape, scheme, classes, self.text)}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        count = len(batch.images)
        draws = {"level": rng.normal(count), "noise": rng.normal(*batch.images.shape)}
        if self._augment:
            transform = draw_transform(count, self._augment, rng)
            draws |= {AUGMENT + name: value for name, value in transform.items()}
        if self.label_dropout:
            draws["hide"] = rng.uniform(count)
        return draws

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        """Weighted squared error, summed over an image's values and averaged over images (eq. 8)."""
        net = _denoiser(nets)
        images, hints = batch.images, None
        if self._augment:
            transform = Transform(**{name: draws[AUGMENT + name] for name in Transform._fields})
            images, hints = augment(images, transform), labels_of(transform)
        sigma = (draws["level"] * self.p_std + self.p_mean).exp()
        labels = batch.labels if net.is_conditional else None
        if self.label_dropout:
            labels = drop_labels(labels, draws["hide"], self.label_dropout)
        errors = denoising_errors(net, images, sigma, draws["noise"], labels, hints)
        loss = errors.flatten(1).sum(1).mean()
        return loss, {"loss": loss.detach()}

    def learning_rate(self, progress: Progress) -> float:
        rampup = min(progress.images / self.lr_rampup_images, 1.0) if self.lr_rampup_images else 1.0
        decay = 1 - progress.step / progress.steps if self.lr_decay == "linear" else 1.0
        return self.lr * rampup * decay

    def ema_decay(self, progress: Progress) -> float:
        halflife = float(self.ema_halflife_images)
        if self.ema_rampup is not None:
            halflife = min(halflife, self.ema_rampup * progress.images)
        return 0.5 ** (progress.batch / max(halflife, 1e-8))

    def denoiser(self, net: nn.Module, labels: Tensor | None) -> Denoiser:
        """The network as a `Denoiser`; labels [B] of the images to generate, unused by an unconditional network."""
        assert isinstance(net, Preconditioned)
        bound = labels if net.is_conditional else None
        return lambda x, at: Prediction(net(x, at.sigma, bound))

    def sample(
        self,
        nets: Nets,
        sampling: Sampling,
        labels: Tensor | None,
        rng: ImageRng,
        wrap: Wrap = unwrapped,
        source: Source | None = None,
    ) -> Tensor:
        net = _denoiser(nets)
        scheme, churn = net.scheme, sampling.churn_law
        path, sigmas = sampling.curve(scheme.sigma_min, scheme.sigma_max)
        guidance = (self.label_dropout, sampling.cfg_weight, sampling.cfg_interval, sampling.cfg_channels)
        denoise = wrap(classifier_free_denoiser(self.denoiser, net, labels, *guidance))
        x, sigmas = begin(rng.normal(*net.shape).double(), sigmas, source)
        match sampling.solver:
            case "rk45":
                return flow(denoise, x, path, float(sigmas[0]), float(sigmas[-2]), sampling.tolerance).float()
            case "sde":
                return reverse_sde(denoise, x, sigmas, path, rng).float()
            case "heun" if sampling.process == "edm":
                return heun(denoise, x, sigmas, rng, churn, scheme.round_sigma).float()
        alpha = 1.0 if sampling.solver == "heun" else None
        return follow(denoise, x / sigmas[0], sigmas, path, alpha, rng, churn, scheme.round_sigma).float()

    @property
    def _is_unet(self) -> bool:
        return self.net not in ("dit", "mlp")

    @property
    def _dropout(self) -> float:
        return self.dropout if self.dropout is not None else 0.13 if self._is_unet else 0.0

    @property
    def _augment(self) -> float:
        return self.augment if self.augment is not None else 0.12 if self._is_unet else 0.0

    def _body(self, data: DataSpec, classes: int) -> nn.Module:
        shape = data.shape
        if self.net == "mlp":
            return ResidualMlp(shape, label_dim=classes, width=self.width, blocks=self.depth)
        channels, pixels = shape[0], square_size(shape, self.net)
        if self.net == "dit":
            return DiT(
                shape, channels, width=self.width, depth=self.depth, heads=self.heads, patch=self.patch,
                classes=classes and classes + 1, text=text_encoder(data) if self.text else None,
                cross_attention=self.cross_attention, time_scale=DIT_TIME_SCALE,
            )  # fmt: skip
        shared: dict[str, Any] = {
            "label_dim": classes,
            "augment_dim": AUGMENT_LABELS if self._augment else 0,
            "model_channels": self.width,
            "channel_mult": self.channel_mult,
            "num_blocks": self.depth,
            "attn_resolutions": self.attention,
            "dropout": self._dropout,
        }
        match self.net:
            case "adm":
                return DhariwalUNet(pixels, channels, channels, **shared)
            case "ncsnpp":
                shared |= {"embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual"}
                return SongUNet(pixels, channels, channels, resample_filter=(1, 3, 3, 1), **shared)
        return SongUNet(pixels, channels, channels, **shared)


def _denoiser(nets: Nets) -> Preconditioned:
    net = nets["denoiser"]
    assert isinstance(net, Preconditioned)
    return net
