"""How often real against real looks like a difference: 200 repetitions with fixed seeds, on digits and on a mixture.

Verdicts: two "generators" that are both the data, five sets each, compared as runs are. A right 95 % test gives about
10 in 200, seldom more than 16. Alarms: one set at a study's n, as `trilemma check-metrics` does; at most 1 in 100
should raise one. The counts follow from the seeds alone.
"""

from collections import Counter

import numpy as np
from sklearn.datasets import load_digits

from methods.core.density.mog25 import points
from pipeline.metrics.card import METRICS
from pipeline.metrics.features.extractors import Features, SmallNetwork
from pipeline.metrics.image_evaluator import WATCHED, watched
from pipeline.metrics.intervals import paired
from pipeline.metrics.sensitivity import DRAWS, Usual
from pipeline.metrics.suite import Real, compute

REPETITIONS = 200
SETS = 5  # sampling seeds of each side
NAMES = (*WATCHED, "f1", "nn_distance")


def main() -> None:
    for name, pool, n, seen_at in (("digits", digits(), 100, 400), ("mixture", mixture(), 200, 1000)):
        found = verdicts(pool, n)
        listed = ", ".join(f"{metric} {found[metric]}" for metric in NAMES)
        print(f"{name}: verdicts in {REPETITIONS} comparisons of equals, {SETS} sets of {n}: {listed}", flush=True)
        print(f"{name}: clean repetitions with an alarm at n = {seen_at}: {alarms(pool, seen_at)} of {REPETITIONS}")


def digits() -> np.ndarray:
    """[1797, 32] features of all digits; the network was trained on others than those compared with."""
    pixels, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    images = np.round(pixels * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    return SmallNetwork.train(images[:500], labels[:500], seed=0, epochs=20).outputs(images[500:]).features


def mixture() -> np.ndarray:
    """[4000, 2] of 25 Gaussians."""
    return points(160, seed=1).numpy()


def verdicts(pool: np.ndarray, n: int) -> Counter[str]:
    """Comparisons with another verdict than "not resolvable", by metric."""
    rng, found = np.random.default_rng(0), Counter[str]()
    for _ in range(REPETITIONS):
        order = rng.permutation(len(pool))
        real = Real.of(Features(pool[order[2 * SETS * n :]]), NAMES)
        sets = [compute(NAMES, Features(pool[rows]), real) for rows in order[: 2 * SETS * n].reshape(2 * SETS, n)]
        for name in NAMES:
            ours, theirs = ([measured[name].value for measured in side] for side in (sets[:SETS], sets[SETS:]))
            found[name] += paired(ours, theirs, METRICS[name].better).verdict != "not resolvable"
    return found


def alarms(pool: np.ndarray, n: int) -> int:
    """Clean repetitions in which a metric is worse than what is usual."""
    rng = np.random.default_rng(1)

    def draw() -> dict[str, float]:
        order = rng.permutation(len(pool))
        return watched(pool[order[:n]], pool[order[n:]])

    usual = Usual.of([draw() for _ in range(DRAWS)])
    return sum(bool(usual.alarms(draw())) for _ in range(REPETITIONS))


if __name__ == "__main__":
    main()
