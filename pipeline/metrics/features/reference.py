"""The real side of a comparison, in a file."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pipeline.data.artifacts import sha256_of_arrays
from pipeline.metrics.features.array_files import check_digest, read_arrays
from pipeline.metrics.features.extractors import NEIGHBOURS
from pipeline.metrics.features.nearest_neighbours import neighbour_distances
from pipeline.metrics.features.statistics import FeatureStats


@dataclass(frozen=True)
class Reference:
    """Precomputed statistics of real data: features, mean, covariance factor, neighbour distances."""

    features: np.ndarray  # [k, d] of all n samples, or of k evenly spaced ones
    stats: FeatureStats  # of all n
    factor: np.ndarray  # [d, d] lower triangular, of the covariance
    neighbours: np.ndarray  # [k, NEIGHBOURS] ascending squared distances to the nearest others of the k

    @classmethod
    def of(cls, features: np.ndarray, stats: FeatureStats | None = None, neighbours: int = NEIGHBOURS) -> "Reference":
        """stats: of all samples, if `features` are of some. neighbours: 0 if no metric needs distances."""
        stats = stats or FeatureStats.of(features)
        count = min(neighbours, len(features) - 1)
        distances = neighbour_distances(features, count) if neighbours else np.empty((len(features), 0))
        return cls(features, stats, stats.factor(), distances)

    @property
    def n(self) -> int:
        return self.stats.n

    @property
    def digest(self) -> str:
        """SHA-256 of the real features, which depend on images and extractor."""
        arrays = {"features": self.features}
        return sha256_of_arrays(arrays if len(self.features) == self.n else arrays | {"mean": self.stats.mean})

    def save(self, path: Path) -> None:
        arrays = {"features": self.features, "mean": self.stats.mean, "scatter": self.stats.scatter}
        arrays |= {"factor": self.factor, "neighbours": self.neighbours}
        about = {"digest": self.digest, "n": self.n}
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path, {"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> "Reference":
        about, arrays = read_arrays(path)
        stats = FeatureStats(about["n"], arrays["mean"], arrays["scatter"])
        reference = cls(arrays["features"], stats, arrays["factor"], arrays["neighbours"])
        check_digest(path, reference.digest, about["digest"])
        return reference
