"""Class labels: 0 ... classes - 1; -1 stands for no class, as in the data files. Captions may take their place."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from methods.core.captions import emptied
from methods.core.checks import check_labels, require
from methods.core.guidance import Interval, check_interval, classifier_free, constant, within
from methods.core.process.denoise import Preconditioned
from methods.core.sampling.ancestral import StepNet
from methods.core.types import Denoiser


def check_guidance(cfg_weight: float, interval: Interval | None, channels: int | None) -> None:
    """Of a `Sampling`: ValueError for an interval or channels without guidance, or an interval without levels."""
    require(cfg_weight != 0 or interval is None, "cfg_interval", interval, "none without cfg_weight (leave it out)")
    require(cfg_weight != 0 or channels is None, "cfg_channels", channels, "none without cfg_weight (leave it out)")
    check_interval(interval, "cfg_interval")


def drop_labels(labels: Tensor | None, uniform: Tensor, probability: float) -> Tensor:
    """labels [B], each replaced by -1 where uniform [B] is below `probability` (Ho and Salimans 2022, algorithm 1).

    Of captions [B, L] each becomes the empty one.
    """
    if labels is None:
        raise ValueError("label_dropout: there are no labels to drop; train on labelled data, or leave it out")
    hidden = uniform < probability
    return labels.masked_fill(hidden, -1) if labels.ndim == 1 else emptied(labels, hidden)


Net = TypeVar("Net", Preconditioned, StepNet)


def classifier_free_denoiser(
    denoiser: Callable[[Net, Tensor | None], Denoiser],
    net: Net,
    labels: Tensor | None,
    label_dropout: float,
    cfg_weight: float,
    interval: Interval | None = None,
    channels: int | None = None,
) -> Denoiser:
    """The denoiser of these labels, with classifier-free guidance if cfg_weight is not 0.

    denoiser: (network, labels [B] or None) -> a `Denoiser`. interval: of the steps that are guided, see `within`;
    channels: see `classifier_free`. Captions are encoded once for all steps.
    ValueError for a weight where the model was not trained with label_dropout, and for labels out of range.
    """
    check_labels(labels, net.classes)
    if net.has_text and labels is not None:
        with torch.no_grad():
            labels = net.body.get_submodule("text")(labels, len(labels))
    if not cfg_weight:
        return denoiser(net, labels)
    learned = net.is_conditional and labels is not None and label_dropout > 0
    require(learned, "cfg_weight", cfg_weight, "none unless the model is conditional and trained with label_dropout")
    law = within(constant(cfg_weight), interval)
    return classifier_free(denoiser(net, labels), denoiser(net, None), law, channels)
