"""torch-fidelity's feature networks as extractors: Inception-v3 in a faster equal form, the others unchanged."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from pipeline.data.artifacts import sha256_of_file
from pipeline.metrics.features.extractors import Features, in_tiles
from pipeline.metrics.features.weights import INCEPTION

SIDE = 299  # pixels per side of the network's input
SPATIAL_CHANNELS = 7  # of sFID: the first of the 1x1 branch of the fourth 17x17 block (Nash et al. 2021, section 4.2)
CPU_TILE, CUDA_TILE = 16, 64  # images per pass


class Inception:
    """Inception-v3 as published FIDs use it, equal to torch-fidelity's to rounding.

    In float32: batch normalisation is folded into the convolutions, memory is channels-last, and TensorFlow's resize is
    two small matrix products.
    """

    name = INCEPTION
    layer = "pool-2048"
    preprocessing = "uint8, grey repeated to RGB, (x - 128) / 128, TensorFlow 1 bilinear to 299x299"

    def __init__(self, weights: Path, device: torch.device | None = None) -> None:
        """weights: a verified file in torch-fidelity's format; its digest is part of the extractor's."""
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.digest = _digest(weights, self.name, self.preprocessing)
        net = FeatureExtractorInceptionV3(self.name, ["2048"], feature_extractor_weights_path=str(weights))
        for module in net.modules():
            if isinstance(module, BasicConv2d):
                _fold(module)
        self._net = net.to(self.device).to(memory_format=torch.channels_last)
        self._stem = nn.Sequential(
            *(net.Conv2d_1a_3x3, net.Conv2d_2a_3x3, net.Conv2d_2b_3x3, net.MaxPool_1),
            *(net.Conv2d_3b_1x1, net.Conv2d_4a_3x3, net.MaxPool_2),
            *(net.Mixed_5b, net.Mixed_5c, net.Mixed_5d, net.Mixed_6a, net.Mixed_6b, net.Mixed_6c),
        )
        self._rest = nn.Sequential(net.Mixed_6d, net.Mixed_6e, net.Mixed_7a, net.Mixed_7b, net.Mixed_7c)

    def outputs(self, images: np.ndarray) -> Features:
        """images: [n, 1 or 3, H, W] uint8. All outputs are float32, from one pass.

        features [n, 2048]: average-pooled, for FID, KID, precision, recall; logits [n, 1008]: without bias, for the
        Inception score; spatial [n, 7 x 17 x 17]: for sFID.
        """
        tile = CUDA_TILE if self.device.type == "cuda" else CPU_TILE
        return Features(*in_tiles(self._pass, _rgb(images), tile, self.device))

    @torch.inference_mode()
    @torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True)
    def _pass(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self._stem(_resized((images.float() - 128) / 128).contiguous(memory_format=torch.channels_last))
        spatial = _first_channels(self._net.Mixed_6d.branch1x1, x)
        features = self._rest(x).mean(dim=(2, 3))
        return features, features @ self._net.fc.weight.T, spatial.flatten(1)


class Fidelity:
    """Another of torch-fidelity's networks by its name, unchanged: vgg16, clip-..."""

    def __init__(self, name: str, weights: Path, device: torch.device | None = None) -> None:
        self.name = name
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        kind = FEATURE_EXTRACTORS_REGISTRY[name]
        self.layer = str(kind.get_default_feature_layer_for_metric("fid"))
        self.preprocessing = "uint8, grey repeated to RGB, then as torch-fidelity does"
        self.digest = _digest(weights, name, self.preprocessing)
        self._net = kind(name, [self.layer], feature_extractor_weights_path=str(weights)).to(self.device)

    def outputs(self, images: np.ndarray) -> Features:
        return Features(in_tiles(self._pass, _rgb(images), CPU_TILE, self.device)[0])

    @torch.inference_mode()
    def _pass(self, images: Tensor) -> tuple[Tensor, ...]:
        return self._net(images)


def tensorflow_resize(size_in: int, size_out: int) -> Tensor:
    """[size_out, size_in] float32: bilinear weights of TensorFlow 1, with pixel centres at the corners."""
    positions = torch.arange(size_out, dtype=torch.float32) * torch.tensor(size_in / size_out, dtype=torch.float32)
    low = positions.long()
    high = (low + 1).clamp_max(size_in - 1)
    share = positions - low
    weights = torch.zeros(size_out, size_in)
    rows = torch.arange(size_out)
    weights[rows, low] = 1 - share
    return weights.index_put((rows, high), share, accumulate=True)


def _resized(images: Tensor) -> Tensor:
    rows, columns = (tensorflow_resize(side, SIDE).to(images) for side in images.shape[2:])
    return rows @ images @ columns.T


def _first_channels(block: BasicConv2d, x: Tensor) -> Tensor:
    """The first channels of a folded 1x1 block."""
    bias = block.conv.bias
    assert bias is not None
    return functional.conv2d(x, block.conv.weight[:SPATIAL_CHANNELS], bias[:SPATIAL_CHANNELS]).relu()


def _fold(block: BasicConv2d) -> None:
    """Move the normalisation into weights and bias: w g / s and b - m g / s, computed in float64."""
    norm, conv = block.bn, block.conv
    assert norm.running_var is not None
    assert norm.running_mean is not None
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    gain = norm.weight.double() / deviation
    conv.weight = nn.Parameter((conv.weight.double() * gain[:, None, None, None]).float(), requires_grad=False)
    conv.bias = nn.Parameter((norm.bias.double() - norm.running_mean.double() * gain).float(), requires_grad=False)
    block.bn = nn.Identity()  # type: ignore[assignment]


def _rgb(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images are {images.dtype} {images.shape}: pass uint8 [n, 1 or 3, H, W]")
    return np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images


def _digest(weights: Path, *words: str) -> str:
    return hashlib.sha256("/".join((sha256_of_file(weights), *words)).encode()).hexdigest()
