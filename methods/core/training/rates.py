"""Learning rates that fall and averages that warm up, for short trainings. Ours, of no paper."""

from collections.abc import Callable

from methods.core.types import Progress

LAST_LR_SHARE = 0.02  # of the first learning rate, at the end of the training


def falling(lr: float, since: float | None) -> Callable[[Progress], float]:
    """lr until a share `since` of the training, then linearly down to 2 % of it. None: constant."""

    def law(progress: Progress) -> float:
        if since is None:
            return lr
        fallen = max(0.0, (progress.step / progress.steps - since) / (1 - since))
        return lr * (1 - (1 - LAST_LR_SHARE) * fallen)

    return law


def averaging(decay: float, warmup: bool) -> Callable[[Progress], float]:
    """The decay of a moving average; warmup: after n steps at most (1 + n) / (10 + n)."""

    def law(progress: Progress) -> float:
        return min(decay, (1 + progress.step) / (10 + progress.step)) if warmup else decay

    return law
