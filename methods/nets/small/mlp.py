"""Small fully connected networks for points and tiny images, with the U-Nets' calling convention."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.nets.edm.trunk import add_condition
from methods.nets.embeddings import octave_embedding, split_pair
from methods.nets.layers import Linear, zeros


class Conditioning(nn.Module):
    """Noise labels [B], or [B, 2] if `pairs`, and classes [B, label_dim] or [B] int -> [B, width]."""

    def __init__(self, width: int, label_dim: int = 0, pairs: bool = False) -> None:
        super().__init__()
        self.noise0 = Linear(width, width)
        self.noise1 = Linear(width, width)
        self.second = Linear(width, width) if pairs else None
        self.label = Linear(label_dim, width, bias=None) if label_dim else None
        self.label_gain = math.sqrt(label_dim)

    def forward(self, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        first, second = split_pair(noise_labels.to(self.noise0.weight.dtype), self.second)
        emb = self.noise0(octave_embedding(first, self.noise0.in_features))
        if self.second is not None and second is not None:
            emb = emb + self.second(octave_embedding(second, self.second.in_features))
        emb = self.noise1(F.silu(emb))
        return F.silu(add_condition(emb, self.label, class_labels, "class labels", self.label_gain))


class FilmBlock(nn.Module):
    """h [B, width] plus a two-layer branch whose normalised input the embedding scales and shifts (FiLM)."""

    def __init__(self, width: int, emb_channels: int) -> None:
        super().__init__()
        self.width = width
        self.affine = Linear(emb_channels, 2 * width)
        self.linear0 = Linear(width, width)
        self.linear1 = Linear(width, width)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.affine(emb).chunk(2, dim=1)
        y = torch.addcmul(shift, F.layer_norm(h, (self.width,)), 1 + scale)
        return h + self.linear1(F.silu(self.linear0(y)))


class FilmTrunk(nn.Module):
    """x [B, *shape], flattened, through residual FiLM blocks: [B, width]."""

    def __init__(self, inputs: int, label_dim: int, width: int, blocks: int, pairs: bool = False) -> None:
        super().__init__()
        self.condition = Conditioning(width, label_dim, pairs)
        self.first = Linear(inputs, width)
        self.blocks = nn.ModuleList(FilmBlock(width, width) for _ in range(blocks))

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None) -> Tensor:
        emb = self.condition(noise_labels, class_labels)
        h = self.first(x.flatten(1))
        for block in self.blocks:
            h = block(h, emb)
        return F.silu(h)


class ResidualMlp(nn.Module):
    """A denoiser body: x [B, *shape] -> [B, *out_shape], zero at initialisation.

    shape, out_shape: of one point (D,) or image (C, H, W); out_shape None: the same.
    label_dim: classes; 0: not conditioned. width, blocks: of the hidden layers. pairs: two noise labels per image.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        out_shape: tuple[int, ...] | None = None,
        label_dim: int = 0,
        width: int = 256,
        blocks: int = 3,
        pairs: bool = False,
    ) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape or shape)
        self.trunk = FilmTrunk(math.prod(shape), label_dim, width, blocks, pairs)
        self.last = Linear(width, math.prod(self.out_shape), weight=zeros, bias=zeros)

    def forward(
        self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """x [B, *shape], noise_labels [B] or [B, 2], class_labels [B, label_dim] or [B] int -> [B, *out_shape]."""
        if augment_labels is not None:
            raise ValueError(
                "augmentation labels given to an MLP, which has no such input: train it without augmentation"
            )
        return self.last(self.trunk(x, noise_labels, class_labels)).reshape(-1, *self.out_shape)
