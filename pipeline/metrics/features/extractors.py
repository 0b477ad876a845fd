"""Feature extractors, and the precomputed statistics of real data."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional

from methods.core.rng import TILE, fold
from pipeline.data.artifacts import sha256_of_arrays
from pipeline.metrics.card import Described
from pipeline.metrics.features.array_files import check_digest, read_arrays

NEIGHBOURS = 10  # distances stored per real sample: the largest k of precision, recall, density and coverage
WIDEST_PIXELS = 4096  # pixel values of an image that may be features: the covariance has their square
SCALING = "uint8 / 127.5 - 1"


@dataclass(frozen=True)
class Features:
    """Outputs of a feature extractor for n images."""

    features: np.ndarray  # [n, d] floats
    logits: np.ndarray | None = None  # [n, classes], of an extractor that classifies
    spatial: np.ndarray | None = None  # [n, d'], of Inception: for sFID
    labels: np.ndarray | None = None  # [n] int64: the class of each image, where all have one

    def __len__(self) -> int:
        return len(self.features)


class Extractor(Described, Protocol):
    """Images to features; an image has the same bits in any batch."""

    def outputs(self, images: np.ndarray) -> Features:
        """images: [n, C, H, W] uint8."""
        ...


class Pixels:
    """The image itself, flattened, in [-1, 1]."""

    name = "pixels"
    layer = "input"
    preprocessing = SCALING
    digest = hashlib.sha256(f"pixels/{SCALING}".encode()).hexdigest()

    def outputs(self, images: np.ndarray) -> Features:
        return Features(_scaled(images).flatten(1).numpy())


class SmallNetwork:
    """Two convolutions, 32 features and a class layer: trained in seconds, frozen afterwards.

    Features are divided by one number so that their mean square is 1, the scale of KID's kernel (f.g / d + 1)^3.
    """

    name = "small-cnn"
    layer = "penultimate-32"
    preprocessing = SCALING

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        """shape: (C, H, W) of an image; weights from torch's global generator."""
        channels, height, width = shape
        self.shape, self.classes = tuple(shape), classes
        trunk = nn.Sequential(
            nn.Conv2d(channels, 24, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(24, 48, 3, padding=1, stride=2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(48 * -(-height // 2) * -(-width // 2), 32),
            nn.SiLU(),
        )
        self.net = nn.ModuleDict({"trunk": trunk, "head": nn.Linear(32, classes)})
        self.scale = torch.ones(1)  # root mean square of the trunk's output over the training images
        self.net.register_buffer("scale", self.scale)

    @classmethod
    def train(cls, images: np.ndarray, labels: np.ndarray, seed: int, epochs: int = 60) -> "SmallNetwork":
        """Fit by cross-entropy on images shifted by up to one pixel. Leaves torch's global generator as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(seed, "extractor"))
            network = cls(images.shape[1:], int(labels.max()) + 1)
            network._fit(images, torch.tensor(labels, dtype=torch.int64), epochs)
        network.scale.fill_(float(np.sqrt(np.square(network.outputs(images).features, dtype=np.float64).mean())))
        return network

    def outputs(self, images: np.ndarray) -> Features:
        if images.shape[1:] != self.shape:
            raise ValueError(f"images of shape {images.shape[1:]} but this network was trained on {self.shape}")
        joined = _in_tiles(self._features_and_logits, images)
        return Features(joined[:, : -self.classes].copy(), joined[:, -self.classes :].copy())

    def classify(self, images: np.ndarray) -> np.ndarray:
        """[n] int64: the class with the largest logit."""
        logits = self.outputs(images).logits
        assert logits is not None
        return logits.argmax(axis=1)

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of images classified as their label."""
        return float((self.classify(images) == labels).mean())

    @property
    def digest(self) -> str:
        return sha256_of_arrays(self._weights(), self.preprocessing)

    def save(self, path: Path) -> None:
        """One safetensors file that holds its own digest."""
        about = {"digest": self.digest, "shape": self.shape, "classes": self.classes}
        save_file(self._weights(), path, {"about": json.dumps(about, sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> "SmallNetwork":
        about, weights = read_arrays(path)
        network = cls(tuple(about["shape"]), about["classes"])
        network.net.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
        check_digest(path, network.digest, about["digest"])
        return network

    def _fit(self, images: np.ndarray, labels: Tensor, epochs: int) -> None:
        size = min(TILE, len(images))
        optimiser = torch.optim.Adam(self.net.parameters(), fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, epochs * (len(images) // size))
        for _ in range(epochs):
            for rows in torch.randperm(len(images))[: len(images) // size * size].view(-1, size):
                optimiser.zero_grad()
                logits = self.net["head"](self.net["trunk"](_shifted(_scaled(images[rows.numpy()]))))
                functional.cross_entropy(logits, labels[rows]).backward()
                optimiser.step()
                schedule.step()

    @torch.no_grad()
    def _features_and_logits(self, images: Tensor) -> Tensor:
        features = self.net["trunk"](images)
        return torch.cat([features / self.scale, self.net["head"](features)], dim=1)

    def _weights(self) -> dict[str, np.ndarray]:
        return {name: weight.numpy() for name, weight in self.net.state_dict().items()}


def _scaled(images: np.ndarray) -> Tensor:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"images are {images.dtype} {images.shape}: pass uint8 [n, C, H, W]")
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1)


def _in_tiles(compute: Callable[[Tensor], Tensor], images: np.ndarray) -> np.ndarray:
    """Rows of `compute` in tiles of fixed size, the last one padded: kernels differ in the last bit between sizes."""
    tiles = [_scaled(images[start : start + TILE]) for start in range(0, len(images), TILE)]
    short = TILE - len(tiles[-1])
    tiles[-1] = functional.pad(tiles[-1], (0, 0, 0, 0, 0, 0, 0, short))
    return torch.cat([compute(tile) for tile in tiles])[: len(images)].numpy()


def _shifted(images: Tensor) -> Tensor:
    """The batch moved by up to one pixel each way; pixels that enter at the border are background."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    framed = functional.pad(images, (1, 1, 1, 1), value=-1.0)
    return framed[:, :, down : down + images.shape[2], right : right + images.shape[3]]
