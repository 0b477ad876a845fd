"""How learning rates fall and averages begin in short trainings. Ours; a paper's law stands with its method."""

from collections.abc import Callable

from methods.core.types import Progress

LAST = 0.02  # of a learning rate, at the end of the training


def falling(lr: float, since: float | None) -> Callable[[Progress], float]:
    """lr; after a share `since` of the training linearly down to 2 % of it. None: constant."""

    def law(progress: Progress) -> float:
        if since is None:
            return lr
        fallen = max(0.0, (progress.step / progress.steps - since) / (1 - since))
        return lr * (1 - (1 - LAST) * fallen)

    return law


def averaging(decay: float, warmup: bool) -> Callable[[Progress], float]:
    """The decay of a moving average; warmup: after n steps at most (1 + n) / (10 + n)."""

    def law(progress: Progress) -> float:
        return min(decay, (1 + progress.step) / (10 + progress.step)) if warmup else decay

    return law
