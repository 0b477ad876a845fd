"""Autoguidance: away from a weaker version of the same model (Karras et al. 2024, arXiv:2406.02507).

The weaker run models the same data with the same classes or none, but is smaller, trained for less time, or averaged
over a longer one. Denoised images are combined, so the two runs may differ in scheme and network.
"""

from dataclasses import dataclass

from methods.core.guidance import check_interval, classifier_free, constant, within
from methods.core.numbers import NotNegative, Number
from methods.core.types import Denoiser


@dataclass(frozen=True)
class Use:
    """How a guided run uses a weaker run."""

    weight: Number = 1.0  # w - 1 of the paper, which has w from 1.7 to 2.9; 0: none
    interval: tuple[NotNegative, NotNegative] | None = None  # guide only steps that begin at noise levels (low, high]

    def __post_init__(self) -> None:
        check_interval(self.interval, "interval")


def autoguided(denoise: Denoiser, weaker: Denoiser, use: Use) -> Denoiser:
    """D + weight (D - D of the weaker run) (eq. 3 with w = 1 + weight); not clipped."""
    return classifier_free(denoise, weaker, within(constant(use.weight), use.interval))
