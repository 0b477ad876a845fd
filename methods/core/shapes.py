"""Reshape one number per image, or per image and channel, so that it broadcasts over images."""

from torch import Tensor


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1] of like's rank, so that it broadcasts over each image of `like` [B, ...]."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def per_channel(value: Tensor, like: Tensor) -> Tensor:
    """[B, C] -> [B, C, 1, ..., 1] of like's rank, so that it broadcasts over the pixels of `like` [B, C, ...]."""
    return value.reshape(*value.shape, *[1] * (like.ndim - 2))
