"""The first stage of latent diffusion: an autoencoder with Gaussian latents (Rombach et al. 2022, arXiv:2112.10752)."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from methods.core.checks import check_channels, require, require_at_least
from methods.core.numbers import Count, CountOrZero, NotNegative, Positive
from methods.core.rng import StepRng
from methods.core.types import Adam, Batch, DataSpec, Draws, Metrics, Nets, Player, Progress
from methods.nets.kl_autoencoder import AutoencoderKL


@dataclass(frozen=True)
class KLAutoencoder:
    """Images to latents and back: reconstruction error and KL divergence, each summed over an image's numbers.

    The paper's perceptual loss and its discriminator of patches, which sharpen large images, are left out. Defaults:
    Stable Diffusion's network (8 times smaller sides).
    """

    latent_channels: Count = 4
    channels: tuple[Count, ...] = (128, 256, 512, 512)  # at each resolution, finest first; each next has half the side
    layers: Count = 2  # residual blocks per resolution of the encoder; the decoder has one more
    groups: Count = 32  # of the normalisations; they divide the channels
    attention: bool = True  # at the coarsest resolution
    error: Literal["l1", "l2"] = "l1"  # of the reconstruction
    kl_weight: NotNegative = 1e-6
    kl_anneal_steps: CountOrZero = 0  # over which the weight rises from 0
    lr: Positive = 1e-4  # Adam's learning rate
    lr_decay: Literal["cosine"] | None = None  # to 0 over the training
    clip_norm: Positive | None = 50.0  # of the gradient

    def __post_init__(self) -> None:
        check_channels(self.channels)
        require_at_least(1, latent_channels=self.latent_channels, layers=self.layers, groups=self.groups)
        divided = all(width % self.groups == 0 for width in self.channels)
        require(divided, "groups", self.groups, f"a divisor of all channels, {list(self.channels)},")

    def players(self) -> tuple[Player, ...]:
        return (Player("autoencoder", "autoencoder", Adam(self.learning_rate, clip_norm=self.clip_norm)),)

    def build(self, data: DataSpec) -> dict[str, nn.Module]:
        self.latent_shape(data.shape)
        common = self.channels, self.layers, self.groups, self.attention
        return {"autoencoder": AutoencoderKL(data.shape[0], self.latent_channels, *common)}

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Of images of this shape; ValueError unless their sides can be halved often enough."""
        smaller = 2 ** (len(self.channels) - 1)
        if len(shape) != 3 or any(side % smaller for side in shape[1:]):
            raise ValueError(
                f"channels: {len(self.channels)} resolutions are for images with sides of a multiple of {smaller}, but "
                f"the data have shape {list(shape)}: take fewer, or other data"
            )
        return self.latent_channels, shape[1] // smaller, shape[2] // smaller

    def draw(self, player: str, batch: Batch, rng: StepRng) -> Draws:
        return {"noise": rng.normal(len(batch.images), *self.latent_shape(tuple(batch.images.shape[1:])))}

    def loss(self, player: str, nets: Nets, batch: Batch, draws: Draws, step: int) -> tuple[Tensor, Metrics]:
        images, posterior = _network(nets)(batch.images, draws["noise"])
        difference = (images - batch.images).flatten(1)
        errors = (difference.abs() if self.error == "l1" else difference.square()).sum(1)
        kl = posterior.kl()
        weight = self.kl_weight * min(1.0, step / self.kl_anneal_steps if self.kl_anneal_steps else 1.0)
        loss = (errors + weight * kl).mean()
        return loss, {"loss": loss.detach(), "error": errors.mean().detach(), "kl": kl.mean().detach()}

    def learning_rate(self, progress: Progress) -> float:
        share = progress.step / progress.steps
        return self.lr * (0.5 * (1 + math.cos(math.pi * share)) if self.lr_decay == "cosine" else 1.0)

    def encode(self, nets: Nets, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = _network(nets).encode(images)
        return posterior.mean, posterior.std

    def decode(self, nets: Nets, latents: Tensor) -> Tensor:
        return _network(nets).decode(latents)


def _network(nets: Nets) -> AutoencoderKL:
    net = nets["autoencoder"]
    assert isinstance(net, AutoencoderKL)
    return net
