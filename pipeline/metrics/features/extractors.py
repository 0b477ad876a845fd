"""Feature extractors: pixels, and a small network that is trained in seconds."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

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
    logits: np.ndarray | None = None  # [n, classes], if the extractor classifies
    spatial: np.ndarray | None = None  # [n, d'], of Inception, for sFID
    labels: np.ndarray | None = None  # [n] int64: the class of each image, if all have one

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
        return Features(scaled(images).flatten(1).numpy())


class OwnNetwork(ABC):
    """A network that is trained on a dataset's pictures and then frozen: a trunk that gives features, a head on them.

    Features are divided by one number so that their mean square is 1, as KID's kernel (f.g / d + 1)^3 expects.
    """

    name: str
    layer: str
    preprocessing = SCALING

    def __init__(self, trunk: nn.Module, head: nn.Module, **settings: Any) -> None:
        """settings: the arguments of the class, as JSON has them; `shape` among them, (C, H, W) of an image."""
        self.settings, self.shape = settings, tuple(settings["shape"])
        self.net = nn.ModuleDict({"trunk": trunk, "head": head})
        self.scale = torch.ones(1)  # root mean square of the trunk's output over the training images
        self.net.register_buffer("scale", self.scale)

    @abstractmethod
    def class_of(self, logits: np.ndarray) -> np.ndarray:
        """[n] int64: the most likely class, of the head's output."""

    def outputs(self, images: np.ndarray) -> Features:
        if images.shape[1:] != self.shape:
            raise ValueError(f"images of shape {images.shape[1:]} but this network was trained on {self.shape}")
        return Features(*in_tiles(self._features_and_logits, images, TILE))

    def classify(self, images: np.ndarray) -> np.ndarray:
        """[n] int64: the most likely class."""
        logits = self.outputs(images).logits
        assert logits is not None
        return self.class_of(logits)

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of images classified as their label."""
        return float((self.classify(images) == labels).mean())

    def calibrate(self, images: np.ndarray) -> None:
        """Set the features' scale; images: those of the training."""
        self.scale.fill_(float(np.sqrt(np.square(self.outputs(images).features, dtype=np.float64).mean())))

    @property
    def digest(self) -> str:
        return sha256_of_arrays(self._weights(), self.preprocessing)

    def save(self, path: Path) -> None:
        """One safetensors file, with its digest."""
        about = {"digest": self.digest, **self.settings}
        save_file(self._weights(), path, {"about": json.dumps(about, sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> Self:
        about, weights = read_arrays(path)
        digest = about.pop("digest")
        network = cls(**about)
        network.net.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
        network.net.eval()
        check_digest(path, network.digest, digest)
        return network

    @torch.no_grad()
    def _features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.net["trunk"](scaled(images.numpy()))
        return features / self.scale, self.net["head"](features)

    def _weights(self) -> dict[str, np.ndarray]:
        return {name: weight.numpy() for name, weight in self.net.state_dict().items()}


class SmallNetwork(OwnNetwork):
    """Two convolutions, 32 features and a class layer."""

    name = "small-cnn"
    layer = "penultimate-32"

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        """shape: (C, H, W) of an image; weights from torch's global generator."""
        channels, height, width = shape
        self.classes = classes
        trunk = nn.Sequential(
            nn.Conv2d(channels, 24, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(24, 48, 3, padding=1, stride=2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(48 * -(-height // 2) * -(-width // 2), 32),
            nn.SiLU(),
        )
        super().__init__(trunk, nn.Linear(32, classes), shape=list(shape), classes=classes)

    @classmethod
    def train(cls, images: np.ndarray, labels: np.ndarray, seed: int, epochs: int = 60) -> "SmallNetwork":
        """Fit by cross-entropy on images shifted by up to one pixel. Does not change torch's global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(seed, "extractor"))
            network = cls(images.shape[1:], int(labels.max()) + 1)
            network._fit(images, torch.tensor(labels, dtype=torch.int64), epochs)
        network.calibrate(images)
        return network

    def class_of(self, logits: np.ndarray) -> np.ndarray:
        return logits.argmax(axis=1)

    def _fit(self, images: np.ndarray, labels: Tensor, epochs: int) -> None:
        size = min(TILE, len(images))
        optimiser = torch.optim.Adam(self.net.parameters(), fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, epochs * (len(images) // size))
        for _ in range(epochs):
            for rows in torch.randperm(len(images))[: len(images) // size * size].view(-1, size):
                optimiser.zero_grad()
                logits = self.net["head"](self.net["trunk"](_shifted(scaled(images[rows.numpy()]))))
                functional.cross_entropy(logits, labels[rows]).backward()
                optimiser.step()
                schedule.step()


def scaled(images: np.ndarray) -> Tensor:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"images are {images.dtype} {images.shape}: pass uint8 [n, C, H, W]")
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1)


def in_tiles(
    compute: Callable[[Tensor], tuple[Tensor, ...]], images: np.ndarray, tile: int, device: torch.device | str = "cpu"
) -> list[np.ndarray]:
    """Each output of `compute`. All tiles have one size: kernels differ in the last bit between sizes."""
    padded = np.concatenate([images, np.zeros((-len(images) % tile, *images.shape[1:]), images.dtype)])
    passes = [compute(torch.from_numpy(padded[i : i + tile]).to(device)) for i in range(0, len(padded), tile)]
    return [torch.cat(outputs)[: len(images)].cpu().numpy() for outputs in zip(*passes)]


def _shifted(images: Tensor) -> Tensor:
    """The batch shifted by up to one pixel each way, filled with background."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    framed = functional.pad(images, (1, 1, 1, 1), value=-1.0)
    return framed[:, :, down : down + images.shape[2], right : right + images.shape[3]]
