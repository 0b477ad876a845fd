"""What a user can get wrong in a method's fields, told before any work is done."""

from torch import Tensor

from methods.core.types import Source


def require(holds: bool, field: str, came: object, wanted: str) -> None:
    """ValueError that names the field, what came and what was wanted."""
    if not holds:
        raise ValueError(f"{field}: {came} came, {wanted} was wanted")


def check_source(source: Source, noise: Tensor) -> None:
    """One image for each row of noise [B, *shape]."""
    came, wanted = list(source.images.shape), list(noise.shape)
    require(came == wanted, "source.images", f"shape {came}", f"one image for each to be made, {wanted},")


def check_labels(labels: Tensor | None, classes: int) -> None:
    """Of a network with classes, before it is asked."""
    if classes and labels is not None and len(labels):
        low, high = int(labels.min()), int(labels.max())
        require(low >= 0 and high < classes, "labels", f"{low} to {high}", f"a class, 0 to {classes - 1},")
