"""Grids are put together from untouched pixels."""

import numpy as np
import pytest

from pipeline.data.image_grid import GAP_PIXELS, MIN_CELL_PIXELS, WHITE, grid, path_grid

RNG = np.random.default_rng(0)


def pictures(count: int, channels: int, size: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def test_each_picture_stands_in_its_place_row_by_row() -> None:
    images = pictures(5, 1, 64)
    whole = grid(images, columns=3)
    assert whole.shape == (2 * 64 + GAP_PIXELS, 3 * 64 + 2 * GAP_PIXELS)
    for index, image in enumerate(images):
        top, left = (index // 3) * (64 + GAP_PIXELS), (index % 3) * (64 + GAP_PIXELS)
        assert np.array_equal(whole[top : top + 64, left : left + 64], image[0])
    assert (whole[64 + GAP_PIXELS :, 2 * (64 + GAP_PIXELS) :] == WHITE).all()


def test_colours_come_last() -> None:
    images = pictures(2, 3, 64)
    whole = grid(images, columns=2)
    assert whole.shape == (64, 2 * 64 + GAP_PIXELS, 3)
    assert np.array_equal(whole[:, :64], images[0].transpose(1, 2, 0))


def test_tiny_pictures_are_enlarged_without_mixing_pixels() -> None:
    images = pictures(1, 1, 8)
    whole = grid(images, columns=8)
    assert whole.shape == (MIN_CELL_PIXELS, MIN_CELL_PIXELS)
    assert np.array_equal(whole[::6, ::6], images[0, 0])
    assert np.array_equal(whole[5::6, 5::6], images[0, 0])


def test_a_path_runs_from_left_to_right() -> None:
    states = [pictures(2, 1, 64) for _ in range(3)]
    whole = path_grid(states)
    assert whole.shape == (2 * 64 + GAP_PIXELS, 3 * 64 + 2 * GAP_PIXELS)
    assert np.array_equal(whole[-64:, :64], states[0][1, 0])
    assert np.array_equal(whole[:64, -64:], states[2][0, 0])


@pytest.mark.parametrize(
    "images", [np.zeros((2, 1, 8, 8)), np.zeros((2, 4, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)]
)
def test_anything_but_uint8_pictures_is_refused(images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a grid is made of uint8"):
        grid(images, columns=2)
