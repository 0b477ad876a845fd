"""Checks of a method's fields and inputs, made before any computation; each raises ValueError."""

from typing import Any, get_args

from torch import Tensor

from methods.core.types import Source


def require(holds: bool, field: str, came: object, wanted: str) -> None:
    """ValueError with the field, the value that came and the one that was wanted, unless it `holds`."""
    if not holds:
        raise ValueError(f"{field}: {came} came, {wanted} was wanted")


def require_choice(field: str, came: str, options: Any) -> None:
    """ValueError unless `came` is one of `options`, a Literal type."""
    require(came in get_args(options), field, repr(came), f"one of {', '.join(map(repr, get_args(options)))}")


def require_at_least(least: float, **fields: float | None) -> None:
    """ValueError that names the first field below `least`; None passes."""
    for field, came in fields.items():
        require(came is None or came >= least, field, came, f"at least {least:g}")


def require_positive(**fields: float | None) -> None:
    """ValueError that names the first field that is not above 0; None passes."""
    for field, came in fields.items():
        require(came is None or came > 0, field, came, "more than 0")


def require_fraction(**fields: float | None) -> None:
    """ValueError that names the first field outside [0, 1); None passes."""
    for field, came in fields.items():
        require(came is None or 0 <= came < 1, field, came, "at least 0 and below 1")


def check_label_dropout(label_dropout: float, conditional: bool) -> None:
    """A probability below 1, and 0 in an unconditional model, which has no labels to hide."""
    require_fraction(label_dropout=label_dropout)
    hides = conditional or not label_dropout
    require(hides, "label_dropout", label_dropout, "none for an unconditional model")


def check_conditional(conditional: bool, net: str, takes_classes: bool) -> None:
    """A conditional model needs a network that has class labels as input."""
    require(takes_classes or not conditional, "conditional", conditional, f"false beside net {net!r}")


def check_channels(channel_mult: tuple[int, ...]) -> None:
    """The widths of a U-Net's resolutions, as factors of the first."""
    require(len(channel_mult) >= 1, "channel_mult", channel_mult, "at least one resolution")
    require(min(channel_mult) >= 1, "channel_mult", channel_mult, "factors of at least 1")


def check_chain_steps(steps: int, schedule: str) -> None:
    """The linear schedule, scaled to fewer than 21 steps, has betas above 1."""
    require_at_least(21 if schedule == "linear" else 2, steps=steps)


def check_source(source: Source, noise: Tensor) -> None:
    """source.images have the shape of noise [B, *shape]."""
    came, wanted = list(source.images.shape), list(noise.shape)
    require(came == wanted, "source.images", f"shape {came}", f"one image for each to be made, {wanted},")


def check_labels(labels: Tensor | None, classes: int) -> None:
    """labels [B] within 0 ... classes - 1; not checked for a network without classes."""
    if classes and labels is not None and len(labels):
        low, high = int(labels.min()), int(labels.max())
        require(low >= 0 and high < classes, "labels", f"{low} to {high}", f"a class, 0 to {classes - 1},")
