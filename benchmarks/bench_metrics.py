"""Metric arithmetic against torch-fidelity on the same features: CPU seconds, one thread, references at hand."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.values.frechet import frechet_distance
from pipeline.metrics.values.precision_recall import manifold

SAMPLES, WIDTH = 10_000, 2048  # as Inception features of a usual study


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(WIDTH, WIDTH)) * np.linspace(1, 0.05, WIDTH)[:, None] / WIDTH**0.5
    generated, real = (np.abs(rng.normal(size=(SAMPLES, WIDTH)) @ mixing * s).astype(np.float32) for s in (1.01, 1))
    theirs = [torch.from_numpy(side) for side in (generated, real)]
    their_stats = [fid_features_to_statistics(side) for side in theirs]
    stats, reference = FeatureStats.of(generated), Reference.of(real)

    plain, seconds = timed(lambda: fid_statistics_to_metric(*their_stats, verbose=False)["frechet_inception_distance"])
    ours, own_seconds = timed(lambda: frechet_distance(stats, reference.stats, reference.factor).value)
    report("Frechet distance", seconds, own_seconds, abs(ours - plain))

    prc, seconds = timed(lambda: prc_features_to_metric(*theirs, verbose=False))
    cover, own_seconds = timed(lambda: manifold(generated, reference))
    difference = max(abs(cover.precision.value - prc["precision"]), abs(cover.recall.value - prc["recall"]))
    report("precision and recall", seconds, own_seconds, difference)
    _, reference_seconds = timed(lambda: Reference.of(real))
    report("the same and the whole reference", seconds, own_seconds + reference_seconds, difference)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def report(what: str, plain: float, ours: float, difference: float) -> None:
    print(f"{what}: torch-fidelity {plain:.2f} s, ours {ours:.2f} s, ratio {plain / ours:.2f}, error {difference:.0e}")


if __name__ == "__main__":
    main()
