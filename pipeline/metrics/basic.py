"""Features -> numbers. Every function is exact for any order of the samples, and says so when a number is doubtful.

Generated first, real second, always: precision and recall change places otherwise.
"""

import hashlib
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.linalg import get_lapack_funcs
from scipy.special import log_softmax
from sklearn.svm import SVC

from pipeline.metrics.card import MetricValue
from pipeline.metrics.features.nearest_neighbours import nearest_distances, neighbour_distances, overlap
from pipeline.metrics.features.reference import Reference
from pipeline.metrics.features.statistics import FeatureStats, check_features


class Manifold(NamedTuple):
    """How the two clouds cover each other, by balls reaching to each point's k-th nearest neighbour."""

    precision: MetricValue  # share of generated samples inside a real ball
    recall: MetricValue  # share of real samples inside a generated ball
    f1: MetricValue
    density: MetricValue  # mean number of real balls around a generated sample, over k; may exceed 1
    coverage: MetricValue  # share of real balls that hold a generated sample


def frechet_distance(generated: FeatureStats, real: FeatureStats, real_factor: np.ndarray | None = None) -> MetricValue:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2), covariances with N - 1 (Heusel et al. 2017, eq. 6).

    (S1 S2)^1/2 has the eigenvalues of (L^T S1 L)^1/2 for S2 = L L^T: pass the reference's factor if it is at hand.
    """
    if len(generated.mean) != len(real.mean):
        raise ValueError(f"generated width {len(generated.mean)}, real {len(real.mean)}: use one extractor for both")
    factor = real.factor() if real_factor is None else real_factor
    reduce = get_lapack_funcs(("sygst",), dtype=np.float64)[0]
    product, _ = reduce(generated.covariance, factor, itype=2, lower=1)  # L^T S1 L, its lower triangle
    roots = np.linalg.eigvalsh(product, UPLO="L")
    cross = np.sqrt(roots[roots > 0]).sum()
    shift = np.square(generated.mean - real.mean).sum()
    spread = np.trace(generated.covariance) + np.trace(real.covariance)
    warnings = tuple(
        f"{stats.n} {side} samples for {len(stats.mean)} features: a singular covariance, the distance is far too large"
        for side, stats in (("generated", generated), ("real", real))
        if stats.n <= len(stats.mean)
    )
    return MetricValue(float(shift + spread - 2 * cross), warnings)


class PolynomialKernel(NamedTuple):
    """k(a, b) = (gamma a.b + coef0)^degree."""

    degree: int
    gamma: float
    coef0: float

    @classmethod
    def of_kid(cls, width: int) -> "PolynomialKernel":
        """(a.b / d + 1)^3 for features of width d (Binkowski et al. 2018)."""
        return cls(degree=3, gamma=1 / width, coef0=1.0)

    def sum(self, a: np.ndarray, b: np.ndarray) -> float:
        """Over all pairs of a row of a and a row of b, in blocks of at most 2^23 pairs."""
        step = max(1, 2**23 // max(1, len(b)))
        blocks = (a[start : start + step] @ b.T for start in range(0, len(a), step))
        return float(sum(self._of(products).sum() for products in blocks))

    def trace(self, a: np.ndarray) -> float:
        """Of each row with itself."""
        return float(self._of(np.square(a).sum(axis=1)).sum())

    def _of(self, products: np.ndarray) -> np.ndarray:
        return (products * self.gamma + self.coef0) ** self.degree


def polynomial_mmd2(x: np.ndarray, y: np.ndarray, degree: int, gamma: float, coef0: float) -> float:
    """Unbiased squared MMD of [n, d] and [m, d] with k(a, b) = (gamma a.b + coef0)^degree (Gretton 2012, eq. 3)."""

    kernel = PolynomialKernel(degree, gamma, coef0)

    def within(a: np.ndarray) -> float:
        return (kernel.sum(a, a) - kernel.trace(a)) / (len(a) * (len(a) - 1))

    x, y = x.astype(np.float64), y.astype(np.float64)
    return within(x) + within(y) - 2 * kernel.sum(x, y) / (len(x) * len(y))


def kid(generated: np.ndarray, real: np.ndarray) -> MetricValue:
    """Kernel distance over all samples (Binkowski et al. 2018): unbiased at any n, slightly negative when equal."""
    _check_pair(generated, real)
    return MetricValue(_cubic_mmd2(generated, real))


def kid_of_subsets(
    generated: np.ndarray, real: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> MetricValue:
    """Kernel distance as papers print it: mean and deviation over random subsets (torch-fidelity's draws)."""
    _check_pair(generated, real)
    if min(len(generated), len(real)) < subset_size:
        raise ValueError(
            f"KID subsets of {subset_size} from {len(generated)} generated and {len(real)} real samples: "
            f"lower subset_size to {min(len(generated), len(real))} or use all samples at once"
        )
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        rows = [rng.choice(len(side), subset_size, replace=False) for side in (generated, real)]
        values.append(_cubic_mmd2(generated[rows[0]], real[rows[1]]))
    return MetricValue(float(np.mean(values)), spread=float(np.std(values)))


def inception_score(logits: np.ndarray, splits: int = 10, shuffle_seed: int | None = None) -> MetricValue:
    """exp E KL(p(y|x) || p(y)), mean over splits in file order (Salimans et al. 2016), or shuffled by the seed."""
    check_features(logits)
    if len(logits) < 2 * splits:
        raise ValueError(f"{len(logits)} samples in {splits} splits: pass at least {2 * splits} or fewer splits")
    if shuffle_seed is not None:
        logits = logits[np.random.RandomState(shuffle_seed).permutation(len(logits))]
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    edges = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score_of_split(log_p[start:stop]) for start, stop in pairwise(edges)]
    return MetricValue(float(np.mean(scores)), spread=float(np.std(scores)))


def manifold(generated: np.ndarray, real: Reference, k: int = 3) -> Manifold:
    """Precision and recall (Kynkaanniemi et al. 2019; k = 3), density and coverage (Naeem et al. 2020; k = 5)."""
    _check_pair(generated, real.features)
    if not 1 <= k <= real.neighbours.shape[1]:
        raise ValueError(f"k = {k}, but the reference keeps 1 to {real.neighbours.shape[1]} neighbours")
    if k >= len(generated):
        raise ValueError(f"k = {k} with {len(generated)} generated samples: pass at least {k + 1}")
    generated_radii = neighbour_distances(generated, k)[:, k - 1]
    counts = overlap(generated, real.features, generated_radii, real.neighbours[:, k - 1])
    precision, recall = (float((balls > 0).mean()) for balls in (counts.balls_around_left, counts.balls_around_right))
    return Manifold(
        precision=MetricValue(precision),
        recall=MetricValue(recall),
        f1=MetricValue(f1(precision, recall)),
        density=MetricValue(float(counts.balls_around_left.mean()) / k),
        coverage=MetricValue(float((counts.points_in_right > 0).mean())),
    )


def f1(precision: float, recall: float) -> float:
    """Harmonic mean; 0 where both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def nearest_neighbour_distance(generated: np.ndarray, training: np.ndarray) -> MetricValue:
    """Mean Euclidean distance of generated samples to the nearest training sample.

    Below that of held-out real samples: copies or typical shapes only. Above: samples off the data.
    """
    _check_pair(generated, training)
    return MetricValue(float(np.sqrt(nearest_distances(generated, training)).mean()))


class SvmClassifier:
    """A support vector machine on pixels, which classifies pictures without the features of any other metric."""

    name = "svm-rbf"
    layer = "class"
    preprocessing = "uint8 / 255"

    def __init__(self, machine: SVC, digest: str) -> None:
        self.machine, self.digest = machine, digest

    @classmethod
    def fit(cls, images: np.ndarray, labels: np.ndarray, c: float = 10.0) -> "SvmClassifier":
        """images: [n, C, H, W] uint8, real. The digest is of all it depends on: kernel, pictures and labels."""
        machine = SVC(kernel="rbf", C=c, gamma="scale").fit(_unit_pixels(images), labels)
        digest = hashlib.sha256(f"{cls.name}/{cls.preprocessing}/{c}/{images.shape}/".encode())
        digest.update(np.ascontiguousarray(images).tobytes() + np.asarray(labels, dtype=np.int64).tobytes())
        return cls(machine, digest.hexdigest())

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> MetricValue:
        """Share of pictures classified as their label."""
        if len(images) != len(labels) or len(images) == 0:
            raise ValueError(
                f"{len(images)} pictures with {len(labels)} labels: pass one label per picture, at least one"
            )
        missing = sorted(set(self.machine.classes_.tolist()) - set(np.unique(labels).tolist()))
        warnings = (f"no picture was asked for of classes {missing}",) if missing else ()
        return MetricValue(float((self.machine.predict(_unit_pixels(images)) == labels).mean()), warnings)


def _check_pair(generated: np.ndarray, real: np.ndarray) -> None:
    for side, features in (("generated", generated), ("real", real)):
        check_features(features)
        if len(features) < 2:
            raise ValueError(f"{len(features)} {side} sample: pass at least 2")
    if generated.shape[1] != real.shape[1]:
        raise ValueError(f"generated width {generated.shape[1]}, real {real.shape[1]}: use one extractor for both")


def _cubic_mmd2(generated: np.ndarray, real: np.ndarray) -> float:
    return polynomial_mmd2(generated, real, *PolynomialKernel.of_kid(real.shape[1]))


def _score_of_split(log_p: np.ndarray) -> float:
    p = np.exp(log_p)
    return float(np.exp((p * (log_p - np.log(p.mean(axis=0)))).sum(axis=1).mean()))


def _unit_pixels(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise ValueError(f"pictures are {images.dtype}: pass uint8")
    return images.reshape(len(images), -1) / 255.0
