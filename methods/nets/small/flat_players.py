"""The fully connected generators and discriminators that DDGAN and SIDDM choose from, for points and tiny images."""

from typing import Literal, TypeAlias

from torch import nn

from methods.nets.shapes import point_dims
from methods.nets.small.film_gan import FilmDiscriminator, FilmGenerator
from methods.nets.small.mixture_fourier import FourierDiscriminator, FourierGenerator
from methods.nets.small.mixture_mlp import MixtureDiscriminator, MixtureGenerator

# SIDDM's plain network for points; ours: the same begun so that coordinates drown out the rest, without which 25 modes
# take hours; one that hears fine detail; and a residual one for points and images.
FlatNet: TypeAlias = Literal["mixture-mlp", "mixture-mlp-loud", "mixture-fourier", "mlp"]
MIXTURES = ("mixture-mlp", "mixture-mlp-loud", "mixture-fourier")  # are told no classes
WIDTHS: dict[str, int] = dict.fromkeys(MIXTURES, 100) | {"mlp": 256}
LOUDNESS = {"mixture-mlp": 1.0, "mixture-mlp-loud": 20.0}
DEPTH = 3  # hidden layers or blocks; discriminators of mixtures have one more


def flat_players(
    net: FlatNet,
    shape: tuple[int, ...],
    std: float,
    *,
    latent: int,
    width: int | None,
    depth: int | None,
    classes: int,
    pair: bool,
    heads: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator. std: of the data; pair: the discriminator sees x_t too; None: the usual size."""
    width, depth = width or WIDTHS[net], depth or DEPTH
    if net == "mlp":
        generator = FilmGenerator(shape, latent=latent, classes=classes, width=width, blocks=depth)
        return generator, FilmDiscriminator(shape, pair=pair, heads=heads, classes=classes, width=width, blocks=depth)
    dims = point_dims(shape, net)
    if net == "mixture-fourier":
        generator = FourierGenerator(dims, latent, std, hidden=width, depth=depth)
        return generator, FourierDiscriminator(dims, std, pair=pair, heads=heads, hidden=width, depth=depth + 1)
    size = {"hidden": width, "loudness": LOUDNESS[net]}
    return MixtureGenerator(dims, latent, depth=depth, **size), MixtureDiscriminator(
        dims, heads, depth=depth + 1, **size
    )
