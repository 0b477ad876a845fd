"""A network that reads the attributes of a picture, such as character, size and place, and gives features of them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.core.rng import fold
from pipeline.metrics.features.extractors import OwnNetwork, scaled

BATCH = 128
LARGEST_UNREDUCED = 16  # pixels per side; of larger pictures, the first convolution has stride 2
EPOCHS, EPOCHS_OF_LARGE = 6, 18  # of 40,000 pictures: by then, 16x16 grey glyphs are read as well as 128 features allow


class AttributeNetwork(OwnNetwork):
    """Five convolutions, 128 features, and one block of logits for each attribute.

    Places matter, so the last convolution's output is flattened, not averaged.
    """

    name = "attribute-cnn"
    layer = "penultimate-128"

    def __init__(self, shape: Sequence[int], attributes: Sequence[int], label: int | None) -> None:
        """shape: (C, H, W); attributes: the number of values of each; label: which of them is the class, if one is."""
        stride = 1 if max(shape[1:]) <= LARGEST_UNREDUCED else 2
        trunk, sides = list[nn.Module](), list(shape[1:])
        widths = ((shape[0], 32, stride), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1))
        for inputs, outputs, step in widths:
            trunk += [nn.Conv2d(inputs, outputs, 3, step, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            sides = [-(-side // step) for side in sides]
        trunk += [nn.Flatten(), nn.Linear(128 * sides[0] * sides[1], 128), nn.ReLU()]
        self.attributes, self.label = list(attributes), label
        head = nn.Linear(128, sum(attributes))
        super().__init__(nn.Sequential(*trunk), head, shape=list(shape), attributes=self.attributes, label=label)

    @classmethod
    def train(
        cls,
        images: np.ndarray,
        values: np.ndarray,
        attributes: Sequence[int],
        label: int | None,
        seed: int,
        epochs: int | None = None,
    ) -> "AttributeNetwork":
        """Fit by the sum of cross-entropies. values: [n, A]. Does not change torch's global generator."""
        usual = EPOCHS if max(images.shape[2:]) <= LARGEST_UNREDUCED else EPOCHS_OF_LARGE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(seed, "attributes"))
            network = cls(images.shape[1:], attributes, label)
            network._fit(images, torch.from_numpy(values.astype(np.int64)), usual if epochs is None else epochs)
        network.calibrate(images)
        return network

    def values(self, logits: np.ndarray) -> np.ndarray:
        """[n, A] int64: the most likely value of every attribute."""
        blocks = np.split(logits, np.cumsum(self.attributes)[:-1], axis=1)
        return np.stack([block.argmax(axis=1) for block in blocks], axis=1)

    def class_of(self, logits: np.ndarray) -> np.ndarray:
        assert self.label is not None
        return self.values(logits)[:, self.label]

    def _fit(self, images: np.ndarray, values: Tensor, epochs: int) -> None:
        size = min(BATCH, len(images))
        optimiser = torch.optim.AdamW(self.net.parameters(), 2e-3, weight_decay=0.02, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * (len(images) // size))
        for _ in range(epochs):
            for rows in torch.randperm(len(images))[: len(images) // size * size].view(-1, size):
                optimiser.zero_grad()
                blocks = self.net["head"](self.net["trunk"](scaled(images[rows.numpy()]))).split(self.attributes, 1)
                losses = [functional.cross_entropy(*pair) for pair in zip(blocks, values[rows].T)]
                torch.stack(losses).sum().backward()
                optimiser.step()
                schedule.step()
        self.net.eval()
