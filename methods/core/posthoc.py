"""Averages of weights of any length, after the training (Karras et al. 2024, arXiv:2312.02696, section 3).

An average with weights proportional to t^gamma is described by its length: the standard deviation of that weight
profile, relative to the training so far. Two such averages, stored now and then, span those of other lengths.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LONGEST = 0.288  # of the lengths with gamma above 0


class Profile(NamedTuple):
    """A stored average: images seen at its snapshot, and its length relative to them."""

    images: int
    length: float


def gamma_of(length: float) -> float:
    """The exponent of a relative length, which is in (0, LONGEST] (the paper's algorithm 2)."""
    inverse = length**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def length_of(gamma: float) -> float:
    return ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5


def power_decay(length: float, images: int, batch: int) -> float:
    """The decay of the step that ends at `images` images seen; 0 at the first step (eq. 127)."""
    return (1 - batch / images) ** (gamma_of(length) + 1)


def coefficients(stored: Sequence[Profile], wanted: Profile) -> np.ndarray:
    """[stored] float64, sum 1: the combination of stored averages nearest to the wanted one (algorithm 3).

    ValueError if none was stored by then.
    """
    if not any(profile.images <= wanted.images for profile in stored):
        raise ValueError(f"no average was stored by {wanted.images} images: choose a later snapshot")
    known = np.array([profile.images <= wanted.images for profile in stored])
    chosen = [profile for profile in stored if profile.images <= wanted.images]
    solved = np.linalg.solve(inner_products(chosen, chosen), inner_products(chosen, [wanted])[:, 0])
    found = np.zeros(len(stored))
    found[known] = solved / solved.sum()
    return found


def inner_products(first: Sequence[Profile], second: Sequence[Profile]) -> np.ndarray:
    """[first, second] integrals of the product of two weight profiles, up to a common factor."""
    images_a, gamma_a = _columns(first)
    images_b, gamma_b = (column.T for column in _columns(second))
    ratio = images_a / images_b
    exponent = np.where(images_a < images_b, gamma_b, -gamma_a)
    shared = (gamma_a + 1) * (gamma_b + 1) / ((gamma_a + gamma_b + 1) * np.maximum(images_a, images_b))
    return shared * ratio**exponent


def _columns(profiles: Sequence[Profile]) -> tuple[np.ndarray, np.ndarray]:
    """[n, 1] each: images and exponents."""
    images = np.array([[profile.images] for profile in profiles], dtype=np.float64)
    return images, np.array([[gamma_of(profile.length)] for profile in profiles])
