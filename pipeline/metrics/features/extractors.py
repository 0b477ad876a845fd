"""Pictures -> features, and the real side of every comparison: each picture goes through each extractor once."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.nn import functional

from methods.core.rng import TILE, fold
from pipeline.data.artifacts import sha256_of_arrays
from pipeline.metrics.features.array_files import check_digest, read_arrays

WIDEST_PIXELS = 4096  # values of a picture that may be its own features: the covariance has their square


NEIGHBOURS = 10  # distances kept per real sample: k of precision, recall, density and coverage may be up to this
SCALING = "uint8 / 127.5 - 1"


class Extractor(Protocol):
    """Pictures to features, the same bits for a picture in any batch."""

    name: str
    layer: str  # which features of the network
    preprocessing: str

    @property
    def digest(self) -> str:
        """SHA-256 of weights and preprocessing: what the numbers rest on."""
        ...

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """[n, C, H, W] uint8 -> [n, d] float32."""
        ...


class Pixels:
    """The picture itself, flattened, in [-1, 1]."""

    name = "pixels"
    layer = "input"
    preprocessing = SCALING
    digest = hashlib.sha256(f"pixels/{SCALING}".encode()).hexdigest()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return _scaled(images).flatten(1).numpy()


class NetworkOutput(NamedTuple):
    """One pass of a classifying network."""

    features: np.ndarray  # [n, d] float32
    logits: np.ndarray  # [n, classes] float32


class SmallNetwork:
    """Two convolutions, 32 features and a class layer: trained in seconds, frozen for good afterwards.

    Features are divided by one number so that their mean square is 1, which KID's kernel (f.g / d + 1)^3 asks for.
    """

    name = "small-cnn"
    layer = "penultimate-32"
    preprocessing = SCALING

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        """shape: (C, H, W) of one picture; weights from torch's global generator."""
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
        self.scale = torch.ones(1)  # root mean square of the trunk's output over the training pictures
        self.net.register_buffer("scale", self.scale)

    @classmethod
    def train(cls, images: np.ndarray, labels: np.ndarray, seed: int, epochs: int = 60) -> "SmallNetwork":
        """Fit by cross-entropy on pictures shifted by up to one pixel. Leaves torch's global generator as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(seed, "extractor"))
            network = cls(images.shape[1:], int(labels.max()) + 1)
            network._fit(images, torch.tensor(labels, dtype=torch.int64), epochs)
        network.scale.fill_(float(np.sqrt(np.square(network(images), dtype=np.float64).mean())))
        return network

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.outputs(images).features

    def outputs(self, images: np.ndarray) -> NetworkOutput:
        """Features and logits of [n, C, H, W] uint8 in one pass."""
        if images.shape[1:] != self.shape:
            raise ValueError(f"pictures of shape {images.shape[1:]} but this network was trained on {self.shape}")
        joined = _in_tiles(self._features_and_logits, images)
        return NetworkOutput(joined[:, : -self.classes].copy(), joined[:, -self.classes :].copy())

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of pictures given their label."""
        return float((self.outputs(images).logits.argmax(axis=1) == labels).mean())

    @property
    def digest(self) -> str:
        return sha256_of_arrays(self._weights(), self.preprocessing)

    def save(self, path: Path) -> None:
        """One safetensors file that names its own digest."""
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
        raise ValueError(f"pictures are {images.dtype} {images.shape}: pass uint8 [n, C, H, W]")
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1)


def _in_tiles(compute: Callable[[Tensor], Tensor], images: np.ndarray) -> np.ndarray:
    """Rows of `compute` in tiles of fixed size, the last one padded: kernels differ in the last bit between sizes."""
    tiles = [_scaled(images[start : start + TILE]) for start in range(0, len(images), TILE)]
    short = TILE - len(tiles[-1])
    tiles[-1] = functional.pad(tiles[-1], (0, 0, 0, 0, 0, 0, 0, short))
    return torch.cat([compute(tile) for tile in tiles])[: len(images)].numpy()


def _shifted(images: Tensor) -> Tensor:
    """The batch moved by up to one pixel each way; what comes in at the border is background."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    framed = functional.pad(images, (1, 1, 1, 1), value=-1.0)
    return framed[:, :, down : down + images.shape[2], right : right + images.shape[3]]


class Features(NamedTuple):
    """What an extractor says of n samples."""

    features: np.ndarray  # [n, d] floats
    logits: np.ndarray | None = None  # [n, classes]
    spatial: np.ndarray | None = None  # [n, d'] for sFID
    shape: tuple[int, ...] | None = None  # (C, H, W) of the pictures, if there were any
    labels: np.ndarray | None = None  # [n] int64: the class asked for or shown, if every sample has one

    def __len__(self) -> int:  # type: ignore[override]
        return len(self.features)
