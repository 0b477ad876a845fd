"""Denoising diffusion probabilistic models (Ho et al. 2020, arXiv:2006.11239), sampled their way or by DDIM's
(Song et al. 2021, arXiv:2010.02502)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from methods.core.chain_model import ChainModel
from methods.core.labels import check_guidance, drop_labels
from methods.core.numbers import Count, Fraction, NotNegative, Number
from methods.core.process.chains import look_up
from methods.core.process.posterior import diffuse
from methods.core.rng import StepRng
from methods.core.sampling.ancestral import StepNet, Variance, chain_denoiser, check_steps_back
from methods.core.types import Batch, DataSpec, Denoiser, Draws, Metrics, Nets
from methods.nets.adm.unet import UNetModel
from methods.nets.shapes import square_size
from methods.nets.small.mlp import ResidualMlp


@dataclass(frozen=True)
class Sampling:
    """One network call per state visited. Default: the paper's."""

    spacing: str | None = None  # "250": evenly; "90,60,20": by section; "ddim50": one stride; None: all
    eta: NotNegative | None = None  # None: ancestral; else DDIM, 0 deterministic
    variance: Literal["small", "large"] = "large"  # of ancestral steps: the posterior's, or beta
    clip: bool | None = None  # the predicted image, to [-1, 1]; None: yes, unless the data are latents
    cfg_weight: Number = 0.0  # classifier-free guidance: 0 none (Ho and Salimans' w; DiT's and DG's scale is 1 + w)
    cfg_interval: tuple[NotNegative, NotNegative] | None = (
        None  # guide only steps that begin at noise levels (low, high]
    )
    cfg_channels: Count | None = None  # guide only so many channels, the first ones; DiT's printed results: 3

    def __post_init__(self) -> None:
        check_steps_back(self.eta, self.variance)
        check_guidance(self.cfg_weight, self.cfg_interval, self.cfg_channels)


@dataclass(frozen=True)
class DDPM(ChainModel):
    """Predicts the noise of every state of a fixed chain. Defaults: CIFAR-10."""

    steps: Count = 1000  # T
    schedule: Literal["linear", "cosine", "latent"] = "linear"  # of the noise levels
    net: Literal["unet", "mlp"] = "unet"  # ADM's U-Net for square images; mlp for points too
    conditional: bool = False  # on the classes, where the data have any
    label_dropout: Fraction = 0.0  # probability that an image's class is hidden, for classifier-free guidance (0.1)
    width: Count = 128  # channels at channel_mult 1, or hidden units
    depth: Count = 2  # residual blocks per resolution, or of the mlp
    channel_mult: tuple[Count, ...] = (1, 2, 2, 2)  # U-Net: width at each resolution, finest first
    attention: tuple[Count, ...] = (16,)  # U-Net: pixels per side where blocks attend
    dropout: Fraction = 0.1  # of the U-Net
    lr: NotNegative = 2e-4  # Adam's learning rate, constant
    ema: Fraction = 0.9999  # decay of the averaged weights per step

    Sampling = Sampling

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        classes = data.classes if self.conditional else 0
        hides = bool(classes) and self.label_dropout > 0
        body, clips = self._body(data.shape, classes + hides), data.latents is None
        return {"denoiser": StepNet(body, data.shape, classes, has_null=hides, clips=clips)}

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        draws = {"index": rng.integers(self.steps, len(batch.images)), "noise": rng.normal(*batch.images.shape)}
        return draws | ({"hide": rng.uniform(len(batch.images))} if self.label_dropout else {})

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        """Mean squared error of the predicted noise (eq. 14)."""
        x_t = diffuse(batch.images, look_up(self.chain.alpha_bar, draws["index"]), draws["noise"])
        labels = batch.labels
        if self.label_dropout:
            labels = drop_labels(labels, draws["hide"], self.label_dropout)
        predicted = nets["denoiser"](x_t, draws["index"], labels)
        loss = (draws["noise"] - predicted).square().mean()
        return loss, {"loss": loss.detach()}

    def denoiser(self, net: nn.Module, labels: Tensor | None) -> Denoiser:
        return chain_denoiser(lambda x, step: net(x, step, labels), self.chain)

    def spacing_and_variance(self, sampling: Sampling) -> tuple[str | None, Variance]:
        return sampling.spacing, sampling.variance

    def _body(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        if self.net == "mlp":
            return ResidualMlp(shape, label_dim=classes, width=self.width, blocks=self.depth)
        return UNetModel(
            square_size(shape, self.net), shape[0], self.width, shape[0], num_res_blocks=self.depth,
            attention_resolutions=self.attention, dropout=self.dropout, channel_mult=self.channel_mult,
            num_classes=classes or None,
        )  # fmt: skip
