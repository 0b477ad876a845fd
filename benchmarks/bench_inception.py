"""Inception-v3 against torch-fidelity's: CPU time per picture, one thread, random weights, interleaved rounds.

`python benchmarks/bench_inception.py 1000` measures 1,000 pictures and the Frechet distances of both as well.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from random_inception import write_random_inception
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from pipeline.metrics.features.inception import Inception
from pipeline.metrics.features.statistics import FeatureStats
from pipeline.metrics.values.frechet import frechet_distance

BATCH = 16  # the faster one for both
PICTURES = 96


def main(pictures: int) -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        weights = write_random_inception(Path(folder) / "weights.pth")
        ours = Inception(weights, torch.device("cpu"))
        theirs = FeatureExtractorInceptionV3(
            ours.name, ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
        )
    images = np.random.default_rng(0).integers(0, 256, (pictures, 3, 32, 32)).astype(np.uint8)
    images[pictures // 2 :] //= 2  # two sides that differ
    own, plain, ratios = [], [], []
    for batch in np.array_split(images, max(1, pictures // BATCH)):
        one, own_seconds = timed(lambda batch=batch: ours.outputs(batch).features)
        other, seconds = timed(lambda batch=batch: their_features(theirs, batch))
        own.append(one)
        plain.append(other)
        ratios.append(seconds / own_seconds)
    own, plain = np.concatenate(own), np.concatenate(plain)
    distances = [frechet(features, pictures // 2) for features in (own, plain)]
    print(
        f"Inception-v3, {pictures} pictures: ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"largest difference of a feature {abs(own - plain).max() / abs(plain).max():.0e} of the largest feature, "
        f"Frechet distance {distances[1]:.6g}, difference {abs(distances[0] - distances[1]):.0e}"
    )


@torch.no_grad()
def their_features(net: FeatureExtractorInceptionV3, batch: np.ndarray) -> np.ndarray:
    return net(torch.from_numpy(batch))[0].numpy()


def frechet(features: np.ndarray, half: int) -> float:
    return frechet_distance(FeatureStats.of(features[:half]), FeatureStats.of(features[half:])).value


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    start = time.process_time()
    return work(), time.process_time() - start


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
