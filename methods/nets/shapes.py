"""Which data a network is for, asked before it is built, and what it remembers of them."""

from torch import nn


def point_dims(shape: tuple[int, ...], net: str) -> int:
    """The dimension of points; networks for mixtures take nothing else."""
    if len(shape) != 1:
        raise ValueError(f"net {net!r} is for points of shape [D], but the data have shape {list(shape)}: choose 'mlp'")
    return shape[0]


def square_size(shape: tuple[int, ...], net: str) -> int:
    """Pixels per side; networks of convolutions take square images [C, H, H] only."""
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(f"net {net!r} is for square images, but the data have shape {list(shape)}: choose 'mlp'")
    return shape[1]


def require_halvings(pixels: int, halvings: int) -> None:
    """A U-Net halves its images this many times."""
    if pixels % 2**halvings:
        raise ValueError(f"{pixels} pixels cannot be halved {halvings} times: shorten channel_mult")


def shape_of(net: nn.Module) -> tuple[int, ...]:
    """Of one of its samples: every network that samples start from remembers it."""
    shape = net.shape
    assert isinstance(shape, tuple), type(net)
    return shape
