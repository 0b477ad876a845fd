"""Classifier accuracy: mean of [c(x) = y] over generated images x of class y, from 0 to 1; higher is better.

The classifier c is trained on real images (GAN-test: Shmelkov et al. 2018, section 3). A support vector machine on
pixels shares no features with the networks of other metrics.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from pipeline.metrics.card import MetricValue

if TYPE_CHECKING:
    from sklearn.svm import SVC


class SvmClassifier:
    """Support vector machine with a Gaussian kernel on pixels."""

    name = "svm-rbf"
    layer = "class"
    preprocessing = "uint8 / 255"

    def __init__(self, machine: "SVC", digest: str) -> None:
        self.machine, self.digest = machine, digest

    @classmethod
    def fit(cls, images: np.ndarray, labels: np.ndarray, c: float = 10.0) -> "SvmClassifier":
        """images: [n, C, H, W] uint8, real. The digest covers kernel, images and labels."""
        from sklearn.svm import SVC  # takes as long to import as most evaluations

        machine = SVC(kernel="rbf", C=c, gamma="scale").fit(_unit_pixels(images), labels)
        digest = hashlib.sha256(f"{cls.name}/{cls.preprocessing}/{c}/{images.shape}/".encode())
        digest.update(np.ascontiguousarray(images).tobytes() + np.asarray(labels, dtype=np.int64).tobytes())
        return cls(machine, digest.hexdigest())

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> MetricValue:
        if len(images) != len(labels) or len(images) == 0:
            raise ValueError(f"{len(images)} pictures, {len(labels)} labels: pass one label per picture, at least one")
        missing = np.setdiff1d(self.machine.classes_, labels).tolist()
        warnings = (f"no picture was generated for classes {missing}",) if missing else ()
        return MetricValue(float((self.machine.predict(_unit_pixels(images)) == labels).mean()), warnings)


def _unit_pixels(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise ValueError(f"pictures are {images.dtype}: pass uint8")
    return images.reshape(len(images), -1) / 255.0
