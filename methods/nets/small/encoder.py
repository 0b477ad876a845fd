"""Small noise-conditioned encoders: discriminators (one logit) and classifiers (one logit per class)."""

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from methods.nets.edm.blocks import BlockStyle, UNetBlock
from methods.nets.layers import UNIT_SUM, Conv2d, Linear, group_norm
from methods.nets.small.mlp import Conditioning, FilmTrunk

SMALLEST_SIZE = 4  # pixels per side of the last features


class MlpEncoder(nn.Module):
    """For points and tiny images [B, *shape], flattened.

    label_dim: classes given as input; 0: not conditioned.
    outputs: logits per image, [B, outputs]; None: a single one, [B].
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        label_dim: int = 0,
        outputs: int | None = None,
        width: int = 256,
        blocks: int = 3,
    ) -> None:
        super().__init__()
        self.is_single = outputs is None
        self.trunk = FilmTrunk(math.prod(shape), label_dim, width, blocks)
        self.last = Linear(width, outputs or 1)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """x [B, *shape], noise_labels [B], class_labels [B, label_dim] or [B] int -> logits."""
        return self.pooled(self.outputs(x, noise_labels, class_labels))

    def outputs(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> list[Tensor]:
        """Features before the last layer: one tensor [B, width]."""
        return [self.trunk(x, noise_labels, class_labels)]

    def pooled(self, outputs: list[Tensor]) -> Tensor:
        logits = self.last(outputs[-1])
        return logits.squeeze(1) if self.is_single else logits


class ConvEncoder(nn.Module):
    """For images [B, C, H, W] of at least 8 pixels per side, halved until 4 to 7 remain; channels double as far as 4x.

    label_dim, outputs: as for `MlpEncoder`. num_blocks: residual blocks per resolution.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        label_dim: int = 0,
        outputs: int | None = None,
        model_channels: int = 32,
        num_blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        halvings = (min(height, width) // SMALLEST_SIZE).bit_length() - 1
        if halvings < 1:
            raise ValueError(f"images of {height}x{width} pixels: use MlpEncoder below {2 * SMALLEST_SIZE}")
        self.outputs = outputs
        style = BlockStyle(4 * model_channels, dropout, skip_scale=UNIT_SUM)
        self.condition = Conditioning(style.emb_channels, label_dim)
        self.first = Conv2d(channels, model_channels, 3)
        widths = [model_channels * 2 ** min(level, 2) for level in range(halvings + 1)]
        self.blocks = nn.ModuleList(UNetBlock(widths[0], widths[0], style) for _ in range(num_blocks))
        for narrow, wide in pairwise(widths):
            self.blocks.append(UNetBlock(narrow, wide, style, resample="down"))
            self.blocks.extend(UNetBlock(wide, wide, style) for _ in range(num_blocks - 1))
        self.norm = group_norm(widths[-1], style.eps)
        pixels = (height >> halvings) * (width >> halvings)
        self.last = Linear(widths[-1] * pixels, outputs or 1)

    def forward(self, x: Tensor, noise_labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], noise_labels [B], class_labels [B, label_dim] or [B] int -> logits."""
        emb = self.condition(noise_labels, class_labels)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, emb)
        logits = self.last(F.silu(self.norm(h)).flatten(1))
        return logits.squeeze(1) if self.outputs is None else logits
