"""Stop a training that diverges: metrics that are not finite, generated images that are all alike."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.errors import TrilemmaError

GRACE_STEPS = 1000  # a fresh network's first images are all alike: until then this is no collapse


def check_finite(window: Sequence[Mapping[str, Tensor]], step: int, replay: str) -> None:
    """TrilemmaError if a metric of the steps up to `step` is NaN or infinite. replay: the end of its message."""
    if torch.stack([value for metrics in window for value in metrics.values()]).isfinite().all():
        return
    for offset, metrics in enumerate(window):
        bad = [name for name, value in metrics.items() if not torch.isfinite(value)]
        if bad:
            raise TrilemmaError(
                f"{', '.join(bad)} no longer finite at step {step - len(window) + 1 + offset}: "
                f"lower the learning rate or clip the gradients; {replay}"
            )


def check_spread(history: Sequence[Mapping[str, float]], share: float, replay: str) -> None:
    """TrilemmaError if, in the last row, the spread of generated images is below `share` of that of real ones.

    In the first GRACE_STEPS only if it was above that in an earlier row.
    """
    last = history[-1]
    is_fresh = last["step"] <= GRACE_STEPS and all(_alike(row, share) for row in history if "fake_spread" in row)
    if is_fresh or not _alike(last, share):
        return
    raise TrilemmaError(
        f"the generator has collapsed by step {last['step']}: its images differ by {last['fake_spread']:.2g} where "
        f"real ones do by {last['real_spread']:.2g}, and below a share of {share:g} (train.collapse; null: never) "
        f"training stops; lower the learning rates or raise r1_gamma; {replay}"
    )


def _alike(row: Mapping[str, float], share: float) -> bool:
    return "fake_spread" in row and row["fake_spread"] < share * row["real_spread"]
