"""Grids of images: samples, and denoising paths."""

import math
from collections.abc import Sequence

import numpy as np

GAP_PIXELS = 2
MIN_CELL_PIXELS = 48  # smaller images are enlarged by an integer factor
WHITE = 255


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """images: uint8 [n, C, H, W], C = 1 or 3. One image of all, row by row: uint8 [H', W'] or [H', W', 3]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"{images.dtype} of shape {images.shape} came: a grid is made of uint8 [n, 1 or 3, H, W]")
    scale = max(1, math.ceil(MIN_CELL_PIXELS / max(images.shape[2:])))
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    height, width = height + GAP_PIXELS, width + GAP_PIXELS
    cells = np.full((rows * columns, channels, height, width), WHITE, np.uint8)
    cells[:count, :, :-GAP_PIXELS, :-GAP_PIXELS] = images
    cells = cells.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    image = cells.reshape(rows * height, columns * width, channels)[:-GAP_PIXELS, :-GAP_PIXELS]
    return np.ascontiguousarray(image[:, :, 0] if channels == 1 else image)


def path_grid(states: Sequence[np.ndarray]) -> np.ndarray:
    """Denoising paths: an image per row, a state per column. states: uint8 [n, C, H, W] each, noisiest first."""
    return grid(np.stack(states, axis=1).reshape(-1, *states[0].shape[1:]), columns=len(states))
