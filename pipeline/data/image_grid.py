"""Pictures made of pictures: grids of samples, and denoising paths."""

import math
from collections.abc import Sequence

import numpy as np

GAP = 2  # pixels between the pictures of a grid
SMALLEST_CELL = 48  # pixels: tinier pictures are enlarged, by whole numbers
WHITE = 255


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """images: uint8 [n, C, H, W], C = 1 or 3. One picture of them, row by row: uint8 [H', W'] or [H', W', 3]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"{images.dtype} of shape {images.shape} came: a grid is made of uint8 [n, 1 or 3, H, W]")
    scale = max(1, math.ceil(SMALLEST_CELL / max(images.shape[2:])))
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, channels, height + GAP, width + GAP), WHITE, np.uint8)
    cells[:count, :, :height, :width] = images
    cells = cells.reshape(rows, columns, channels, height + GAP, width + GAP).transpose(0, 3, 1, 4, 2)
    whole = cells.reshape(rows * (height + GAP), columns * (width + GAP), channels)[:-GAP, :-GAP]
    return np.ascontiguousarray(whole[:, :, 0] if channels == 1 else whole)


def path_grid(states: Sequence[np.ndarray]) -> np.ndarray:
    """Denoising paths: an image per row, a state per column. states: uint8 [n, C, H, W] each, noisiest first."""
    return grid(np.stack(states, axis=1).reshape(-1, *states[0].shape[1:]), columns=len(states))
