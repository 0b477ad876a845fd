"""The data shapes that a network accepts, checked before it is built."""

from torch import nn


def point_dims(shape: tuple[int, ...], net: str) -> int:
    """The dimension D of points of shape (D,); ValueError for images."""
    if len(shape) != 1:
        raise ValueError(f"net {net!r} is for points of shape [D], but the data have shape {list(shape)}: choose 'mlp'")
    return shape[0]


def square_size(shape: tuple[int, ...], net: str) -> int:
    """Pixels per side of square images (C, H, H); ValueError for any other shape."""
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(f"net {net!r} is for square images, but the data have shape {list(shape)}: choose 'mlp'")
    return shape[1]


def require_halvings(pixels: int, halvings: int) -> None:
    """ValueError unless images of so many pixels per side can be halved `halvings` times."""
    if pixels % 2**halvings:
        raise ValueError(f"{pixels} pixels cannot be halved {halvings} times: shorten channel_mult")


def shape_of(net: nn.Module) -> tuple[int, ...]:
    """The shape of one sample, which every network that generates stores as `shape`."""
    shape = net.shape
    assert isinstance(shape, tuple), type(net)
    return shape
