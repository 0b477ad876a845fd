"""The fully connected generators and discriminators of DDGAN and SIDDM, for points and tiny images."""

from typing import Literal, TypeAlias

from torch import nn

from methods.nets.shapes import point_dims
from methods.nets.small.film_gan import FilmDiscriminator, FilmGenerator
from methods.nets.small.mixture_fourier import FourierDiscriminator, FourierGenerator
from methods.nets.small.mixture_mlp import MixtureDiscriminator, MixtureGenerator

# mixture-mlp: SIDDM's network for points. Ours: mixture-mlp-loud, the same with larger initial weights of coordinates,
# without which 25 modes take hours; mixture-fourier, for fine detail; mlp, a residual one for points and images.
FlatNet: TypeAlias = Literal["mixture-mlp", "mixture-mlp-loud", "mixture-fourier", "mlp"]
MIXTURES = ("mixture-mlp", "mixture-mlp-loud", "mixture-fourier")  # unconditional
WIDTHS: dict[str, int] = dict.fromkeys(MIXTURES, 100) | {"mlp": 256}
COORDINATE_GAINS = {"mixture-mlp": 1.0, "mixture-mlp-loud": 20.0}
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
    """Generator and discriminator. std: of the data; pair: the discriminator takes x_t too; None: the usual size."""
    width, depth = width or WIDTHS[net], depth or DEPTH
    if net == "mlp":
        generator = FilmGenerator(shape, latent=latent, classes=classes, width=width, blocks=depth)
        return generator, FilmDiscriminator(shape, pair=pair, heads=heads, classes=classes, width=width, blocks=depth)
    dims = point_dims(shape, net)
    if net == "mixture-fourier":
        generator = FourierGenerator(dims, latent, std, hidden=width, depth=depth)
        return generator, FourierDiscriminator(dims, std, pair=pair, heads=heads, hidden=width, depth=depth + 1)
    size = {"hidden": width, "coordinate_gain": COORDINATE_GAINS[net]}
    return MixtureGenerator(dims, latent, depth=depth, **size), MixtureDiscriminator(
        dims, heads, depth=depth + 1, **size
    )
