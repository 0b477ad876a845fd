"""Which class is asked for. Labels are 0 ... classes - 1; -1 stands for no class, as in the pictures' files."""

from collections.abc import Callable

from torch import Tensor

from methods.core.checks import check_labels, require
from methods.core.guidance import classifier_free, constant
from methods.core.types import Denoiser


def dropped(labels: Tensor | None, uniform: Tensor, probability: float) -> Tensor:
    """labels [B], each turned to no class with this probability (Ho and Salimans 2022, algorithm 1)."""
    if labels is None:
        raise ValueError("label_dropout: there are no labels to drop; train on labelled data, or leave it out")
    return labels.masked_fill(uniform < probability, -1)


def asked(
    denoiser: Callable[[Tensor | None], Denoiser],
    labels: Tensor | None,
    classes: int,
    label_dropout: float,
    cfg_weight: float,
) -> Denoiser:
    """The denoiser of these labels, with classifier-free guidance if it has weight. classes: of the network."""
    check_labels(labels, classes)
    if not cfg_weight:
        return denoiser(labels)
    learned = bool(classes) and labels is not None and label_dropout > 0
    require(learned, "cfg_weight", cfg_weight, "none unless the model is conditional and trained with label_dropout")
    return classifier_free(denoiser(labels), denoiser(None), constant(cfg_weight))
