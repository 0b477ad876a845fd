"""Inception-v3 with random weights in torch-fidelity's file format: for speed and exactness, not for numbers."""

import io
from pathlib import Path

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

RANGES = (("weight", 0.8, 1.2), ("bias", -0.2, 0.2), ("running_mean", -0.2, 0.2), ("running_var", 0.8, 1.25))


class Untrained(FeatureExtractorInceptionV3):
    """The network as it is built, before any weights are loaded."""

    def __init__(self) -> None:
        empty = io.BytesIO()
        torch.save({}, empty)
        empty.seek(0)
        super().__init__("inception-v3-compat", ["2048"], feature_extractor_weights_path=empty)

    def load_state_dict(self, state_dict, strict=True, assign=False):
        assert not state_dict
        return super().load_state_dict({}, strict=False)


def write_random_inception(path: Path, seed: int = 0) -> Path:
    """Weights that keep the size of activations, and normalisations with something to fold."""
    generator = torch.Generator().manual_seed(seed)
    net = Untrained()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.normal_(std=(2 / fan) ** 0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            for name, low, high in RANGES:
                getattr(module, name).uniform_(low, high, generator=generator)
    torch.save(net.state_dict(), path)
    return path
