"""Between uint8 pictures and the methods' float images in [-1, 1]."""

import torch
from torch import Tensor


def from_uint8(pictures: Tensor) -> Tensor:
    """uint8 [..] -> float32 in [-1, 1]."""
    return pictures.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float [..] -> uint8, clipped; 128, not 127.5, so that truncation rounds (EDM's rule)."""
    return (images.float() * 127.5 + 128).clip(0, 255).to(torch.uint8)
