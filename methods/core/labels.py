"""Class labels: 0 ... classes - 1; -1 stands for no class, as in the data files."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from methods.core.checks import check_labels, require
from methods.core.guidance import classifier_free, constant
from methods.core.process.denoise import Preconditioned
from methods.core.sampling.ancestral import StepNet
from methods.core.types import Denoiser


def drop_labels(labels: Tensor | None, uniform: Tensor, probability: float) -> Tensor:
    """labels [B], each replaced by -1 where uniform [B] is below `probability` (Ho and Salimans 2022, algorithm 1)."""
    if labels is None:
        raise ValueError("label_dropout: there are no labels to drop; train on labelled data, or leave it out")
    return labels.masked_fill(uniform < probability, -1)


Net = TypeVar("Net", Preconditioned, StepNet)


def classifier_free_denoiser(
    denoiser: Callable[[Net, Tensor | None], Denoiser],
    net: Net,
    labels: Tensor | None,
    label_dropout: float,
    cfg_weight: float,
) -> Denoiser:
    """The denoiser of these labels, with classifier-free guidance if cfg_weight is not 0.

    denoiser: (network, labels [B] or None) -> a `Denoiser`. ValueError for a weight where the model was not trained
    with label_dropout, and for labels out of range.
    """
    check_labels(labels, net.classes)
    if not cfg_weight:
        return denoiser(net, labels)
    learned = bool(net.classes) and labels is not None and label_dropout > 0
    require(learned, "cfg_weight", cfg_weight, "none unless the model is conditional and trained with label_dropout")
    return classifier_free(denoiser(net, labels), denoiser(net, None), constant(cfg_weight))
